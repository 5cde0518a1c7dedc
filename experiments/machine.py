"""What a measurement was made on, for the file that keeps it."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

import jax

_PACKAGES: Final = "gi_jax", "jax", "jaxlib", "triton", "jax-triton", "torch"


def describe_machine() -> dict[str, Any]:
    """Returns device, driver, versions and commit; plain data, None where unknown."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": " ".join(device.client.platform_version.split()),
        "driver": _line(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
        ),
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "commit": _line("git", "describe", "--always", "--dirty", "--exclude=*"),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what results depend on, as installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _line(*command: str) -> str | None:
    """Returns the first line that a command prints about this project, or None."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0].strip() or None
