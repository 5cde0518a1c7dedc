"""What the command prints: records on standard output, errors on standard error."""

import json
import math
import os
import sys
from typing import Any, Final

# Exit codes; one that a signal ended has 128 + its number.
OK: Final = 0
FAILED: Final = 1  # a file failed, or was left alone; the others were done
USAGE: Final = 2  # nothing was done
INTERRUPTED: Final = 130

# Digits of a printed number: more than a measure of a picture is worth.
_DIGITS: Final = 6


def complain(path: str | os.PathLike[str], error: Exception | str) -> int:
    """Prints one line about a file that failed; returns the exit code for it."""
    if isinstance(error, FileExistsError):  # It did not when the command began.
        message = "exists now, another process has written it"
    elif isinstance(error, OSError) and error.strerror:
        message = error.strerror
        if error.filename and str(error.filename) != str(path):
            message += f": {error.filename}"
    elif isinstance(error, str | ValueError):
        message = str(error).removeprefix(f"{path}: ")
    else:
        message = f"{type(error).__name__}: {error}"
    print(f"gi: {path}: {' '.join(message.split())}", file=sys.stderr)
    return FAILED


def rounded(value: Any) -> Any:
    """Returns a record with its numbers as they are printed, inside of it too."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(rounded, value))
    return value


def to_json(record: dict[str, Any]) -> str:
    """Returns one line; numbers that JSON lacks (the PSNR of equal pictures): null."""

    def finite(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {name: finite(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [*map(finite, value)]
        return value

    return json.dumps(finite(rounded(record)))


def info_text(record: dict[str, Any]) -> str:
    """Returns what `gi info` prints of a file: its header, then a table of sections."""
    record = rounded(record)
    sizes = record["section_bytes"] | {"total": record["num_bytes"]}
    bits = record["bits_per_gaussian"]
    lines = [
        f"{name:20}{value}"
        for name, value in record.items()
        if not isinstance(value, dict)
    ]
    lines += [f"{'section':20}{'bytes':>10}{'bits per Gaussian':>20}"]
    lines += [
        f"{name:20}{size:>10}{bits.get(name, math.nan):>20.2f}"
        for name, size in sizes.items()
    ]
    lines += [
        f"  {name:18}{'':>10}{value:>20.2f}"
        for kind in ("symbol_bits", "order_bits")
        for name, value in record.get(kind, {}).items()
    ]
    return "\n".join(lines)
