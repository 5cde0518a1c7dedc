"""Configurations: one frozen dataclass from which the flags of a script are derived.

    @dataclasses.dataclass(frozen=True)
    class Config:
        steps: int = setting(500, help="steps of the fit")
        loss: Literal["l1", "l2"] = setting("l2", help="what is minimised")

    if __name__ == "__main__":
        run_script(Config, run)

A field's type says what its flag takes: int, float, bool, str, a Literal of strings, or
one of these | None. A field without a default is a flag that must be given. Bounds
belong into `__post_init__`, which raises ValueError.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from absl import app, flags, logging

T = TypeVar("T")

# The flags defined here belong to the calling script, and so to its --help.
flags.disclaim_key_flags()


def setting(default: Any = dataclasses.MISSING, *, help: str) -> Any:
    """Returns a dataclass field with a default and the help of its flag."""
    return dataclasses.field(default=default, metadata={"help": help})


def define_flags(config: type, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag for each field of a dataclass, of the same name.

    Raises:
      ValueError: on a field of a type that no flag has.
    """
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        values = hints[field.name]
        if typing.get_origin(values) in (types.UnionType, typing.Union):
            (values,) = set(typing.get_args(values)) - {type(None)}
        required = field.default is dataclasses.MISSING
        common: dict[str, Any] = {
            "name": field.name,
            "default": None if required else field.default,
            "help": field.metadata["help"],
            "flag_values": flag_values,
            "required": required,
        }
        if typing.get_origin(values) is typing.Literal:
            flags.DEFINE_enum(enum_values=typing.get_args(values), **common)
        elif values in _DEFINE:
            _DEFINE[values](**common)
        else:
            raise ValueError(f"{field.name}: no flag takes a {values}")


def from_flags(config: type[T], flag_values: flags.FlagValues = flags.FLAGS) -> T:
    """Returns the dataclass that the parsed flags say.

    Raises:
      app.UsageError: where the dataclass refuses a value; absl prints it with the help.
    """
    names = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    try:
        return config(**{name: flag_values[name].value for name in names})
    except ValueError as error:
        raise app.UsageError(str(error)) from error


def run_script(
    config: type[T], run: Callable[..., int | None], arguments: str = ""
) -> None:
    """Runs a script from its flags and ends the process.

    Args:
      config: the dataclass of its flags.
      run: the script, of a `config`, and of a list of what is on the command line
        beside flags where it takes that; it returns the exit code, or None for 0.
      arguments: what else than flags is expected, for people; '' is nothing.
    """

    def main(argv):
        if bool(argv[1:]) != bool(arguments):
            found = " ".join(argv[1:]) or "none"
            raise app.UsageError(f"expected {arguments or 'flags only'}, got {found}")
        return run(from_flags(config), *([argv[1:]] if arguments else []))

    define_flags(config)
    # JAX informs about every backend that it does not find.
    app.call_after_init(lambda: logging.set_verbosity(logging.WARNING))
    app.run(main)


def check_least(config: Any, **least: int) -> None:
    """Checks fields of a configuration; those that are None are left out.

    Args:
      config: the dataclass.
      **least: the least value of each field.

    Raises:
      ValueError: where one is below.
    """
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and value < low:
            raise ValueError(f"{name}: expected at least {low}, got {value}")


def integers(name: str, text: str) -> list[int]:
    """Returns the numbers of a flag that takes several, by commas.

    Raises:
      ValueError: where one is not an integer of 1 or more, or is there twice.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"{name}: expected integers with commas between them, got {text!r}"
        ) from None
    if min(found) < 1:
        raise ValueError(f"{name}: expected at least 1, got {text!r}")
    return _distinct(name, text, found)


def numbers(name: str, text: str) -> list[float]:
    """Returns the numbers of a flag that takes several, by commas.

    Raises:
      ValueError: where one is not a number, or is there twice.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if any(map(math.isnan, found)):
        raise ValueError(
            f"{name}: expected numbers with commas between them, got {text!r}"
        )
    return _distinct(name, text, found)


def choices(name: str, text: str, known: Iterable[str]) -> list[str]:
    """Returns the names of a flag that takes several, by commas.

    Raises:
      ValueError: where one is not known, or is there twice, or there is none.
    """
    known, chosen = [*known], [part for part in text.split(",") if part]
    unknown = sorted({*chosen} - {*known})
    if unknown or not chosen:
        raise ValueError(f"{name}: expected some of {','.join(known)}, got {text!r}")
    return _distinct(name, text, chosen)


def _distinct(name: str, text: str, values: list[T]) -> list[T]:
    """Returns the values; what is done twice would count twice in means."""
    if len({*values}) < len(values):
        raise ValueError(f"{name}: expected each once, got {text!r}")
    return values


def fingerprint(values: Mapping[str, Any]) -> str:
    """Returns a short hash of a plain dict, equal in every process and machine."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_DEFINE: dict[Any, Any] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
}
