"""Results as JSON files, and the numbers in them."""

import json
from pathlib import Path
from typing import Any

from gi_jax.images import atomic_write


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of a metrics.json; of its only point, where it has one."""
    points = result.get("points")
    values = result | (points[0] if points and len(points) == 1 else {})
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def write_json(path: Path | str, value: Any) -> None:
    """Writes plain data, and makes the folder where there is none.

    Raises:
      ValueError: on a number that JSON does not have, as NaN.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=2, allow_nan=False)
    atomic_write(path, f"{text}\n".encode())


def write_failures(workdir: Path, failures: list[Any] | dict[str, Any]) -> None:
    """Writes failures.json where anything failed; else removes an older one."""
    path = workdir / "failures.json"
    if failures:
        write_json(path, failures)
    else:
        path.unlink(missing_ok=True)
