"""What XLA compiled for one call of the command is kept for the next ones."""

import contextlib
import os
import time
from pathlib import Path
from typing import Final

import jax

from gi_jax.interruption import before_the_end

# Bytes that the programs take at most: those of some 500 sizes of pictures.
MAX_BYTES: Final = 512 * 2**20

# A program that was last written to so many seconds ago, or less, may be half-written.
_WRITING: Final = 2.0


def keep_programs() -> Path | None:
    """Has JAX keep its compiled programs on disk, unless the user has said where.

    They lie in $XDG_CACHE_HOME/gi_jax, or ~/.cache/gi_jax, about 1 MB for each size of
    picture; encoding another one of that size then begins at once, instead of after
    most of a minute. Where that folder cannot be written, nothing is kept.
    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.

    Returns:
      The folder, for `drop_oldest`; None where nothing is kept, or elsewhere.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return None
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "gi_jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # No home, or not ours.
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    before_the_end(lambda: drop_unfinished(folder))
    return folder


def drop_oldest(folder: Path | None, max_bytes: int = MAX_BYTES) -> None:
    """Removes the programs that were not used for longest, down to a size.

    JAX can do so itself (`jax_compilation_cache_max_size`), but only with a package
    that it does not install.

    Args:
      folder: of the programs; None for nothing to do.
      max_bytes: that may stay.
    """
    if folder is None:
        return
    files = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):  # Another process removed it.
            status = path.stat()
            # Most file systems note when a file was read, to the day.
            used = max(status.st_atime, status.st_mtime)
            files.append((used, status.st_size, path))
    excess = sum(size for _, size, _ in files) - max_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        excess -= size


def drop_unfinished(folder: Path) -> None:
    """Removes what was being written just now: JAX would never write it again."""
    now = time.time()
    for path in folder.glob("*-cache"):
        with contextlib.suppress(OSError):
            if abs(now - path.stat().st_mtime) < _WRITING:
                path.unlink()
