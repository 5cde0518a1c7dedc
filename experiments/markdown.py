"""Tables and numbers as Markdown."""

import re
from collections.abc import Iterable
from typing import Final

_MARKS: Final = re.compile(r"([\\`*_\[\]<>|&~#!])")


def table(columns: Iterable[str], rows: Iterable[Iterable[str | None]]) -> str:
    """Returns a table whose cells are Markdown; None is a dash."""
    columns = list(columns)
    lines = [_line(columns), "|---" * len(columns) + "|", *map(_line, rows)]
    return "\n".join(lines) + "\n"


def literal(text: object) -> str:
    """Returns Markdown that shows a text of any origin as it is, in one line."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def fixed(value: float | None, digits: int) -> str | None:
    """Returns a number with so many digits after the point; None stays None."""
    return None if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int, unit: str = "") -> str | None:
    """Returns a difference with its sign; None stays None."""
    return None if value is None else f"{value:+,.{digits}f}{unit}"


def significant(value: float | None, digits: int = 3) -> str | None:
    """Returns a number with so many significant digits, as 1,234 and 0.00123."""
    if value is None:
        return None
    whole = abs(value) >= 10 ** (digits - 1)
    return f"{value:,.0f}" if whole else f"{value:.{digits}g}"


def mebibytes(number: float | None) -> str | None:
    """Returns a number of bytes in MiB; None stays None."""
    return fixed(None if number is None else number / 2**20, 0)


def _line(cells: Iterable[str | None]) -> str:
    return f"| {' | '.join('–' if cell is None else cell for cell in cells)} |"
