"""Checkpoints: a pytree of arrays in one file, written whole or not at all."""

import io
import os
import zipfile
from typing import Any

import jax
import numpy as np

from gi_jax.images import atomic_write

_FINGERPRINT = "fingerprint"


def save_checkpoint(path: str | os.PathLike[str], tree: Any, fingerprint: str) -> None:
    """Writes the leaves of `tree`, under a temporary name first.

    Args:
      path: where to; replaced if it exists.
      tree: a pytree of arrays and PRNG keys.
      fingerprint: says what the tree belongs to; asked for again on loading.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(_raw_tree(tree))]
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
    np.savez(buffer, **arrays | {_FINGERPRINT: fingerprint})
    atomic_write(path, buffer.getvalue())


def load_checkpoint(path: str | os.PathLike[str], like: Any, fingerprint: str) -> Any:
    """Reads what `save_checkpoint` wrote.

    Args:
      path: the file.
      like: a pytree of the same structure, of arrays or their shapes and types.
      fingerprint: must be the one that was saved.

    Returns:
      The pytree.

    Raises:
      ValueError: where the file is not a checkpoint, or one of something else.
    """
    leaves, structure = jax.tree.flatten(like)
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(_raw_tree, like))]
    try:
        with np.load(path, allow_pickle=False) as file:
            found = str(file[_FINGERPRINT])
            saved = [file[f"leaf_{i}"] for i in range(len(file.files) - 1)]
    # A file of one array, as .npy is, is not to be entered: TypeError.
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{os.fspath(path)}: expected a checkpoint of a fit: {error}"
        ) from error
    if found != fingerprint:
        raise ValueError(
            f"{os.fspath(path)}: the checkpoint is of another fit (picture, "
            f"settings or seed differ): expected {fingerprint}, found {found}"
        )
    if [array.shape for array in saved] != shapes:
        raise ValueError(f"{os.fspath(path)}: the checkpoint's arrays do not fit")
    return jax.tree.unflatten(structure, map(_restored, leaves, saved))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw_tree(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree
    )


def _restored(leaf: Any, saved: np.ndarray) -> jax.Array:
    array = jax.numpy.array(saved)
    return jax.random.wrap_key_data(array) if _is_key(leaf) else array
