"""Results as JSON files."""

import json
from pathlib import Path
from typing import Any

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
