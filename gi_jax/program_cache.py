"""What XLA compiled for one call of the command is kept for the next ones."""

import os
from pathlib import Path

import jax


def keep_programs() -> None:
    """Has JAX keep its compiled programs on disk, unless the user has said where.

    They lie in $XDG_CACHE_HOME/gi_jax, or ~/.cache/gi_jax, about 1 MB for each size of
    picture; encoding another one of that size then begins at once, instead of after
    most of a minute. Where that folder cannot be written, nothing is kept.
    `JAX_ENABLE_COMPILATION_CACHE=false` turns it off.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "gi_jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # No home, or not ours.
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
