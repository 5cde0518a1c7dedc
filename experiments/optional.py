"""Optional packages: imported at first use; errors name the extra to install."""

import importlib
from typing import Any


class _Module:
    """A module that is imported when an attribute of it is asked for."""

    def __init__(self, name: str, extra: str):
        self._name, self._extra = name, extra

    def __getattr__(self, attribute: str) -> Any:
        try:
            module = importlib.import_module(self._name)
        except ModuleNotFoundError as error:
            package = self._name.partition(".")[0]
            if (error.name or "").partition(".")[0] != package:
                raise  # A fault of that package, which this is not to hide.
            raise ModuleNotFoundError(
                f"{package} is not installed: pip install 'gi_jax[{self._extra}]'",
                name=error.name,
            ) from None
        return getattr(module, attribute)


def optional(name: str, extra: str = "experiments") -> Any:
    """Returns a module of a package that an extra of this one brings.

    Args:
      name: of the module, with dots.
      extra: of `pyproject.toml`, named where the package is missing.

    Returns:
      What stands for the module. It is imported at the first use of an attribute, so
      that a command says what it takes (`--help`) without it, and a missing package
      raises ModuleNotFoundError there.
    """
    return _Module(name, extra)
