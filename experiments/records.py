"""Results as files: JSON, plots, and tables in Markdown."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.figure

from gi_jax.images import atomic_write


def write_json(path: Path | str, value: Any) -> None:
    """Writes plain data, and makes the folder where there is none.

    Raises:
      ValueError: on a number that JSON does not have, as NaN.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, allow_nan=False)
    atomic_write(path, f"{text}\n".encode())


def write_plot(path: Path | str, figure: matplotlib.figure.Figure) -> None:
    """Writes a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    atomic_write(path, buffer.getvalue())


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Returns a table in Markdown; numbers are to be formatted already."""
    columns = [*columns]
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float | None, form: str) -> str:
    """Returns a number of a table, a dash where there is none."""
    return "–" if value is None else format(value, form)
