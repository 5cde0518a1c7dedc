"""Over which devices arrays vary, inside `shard_map`."""

from collections.abc import Sequence

import jax


def vary_as(
    examples: Sequence[jax.Array], arrays: Sequence[jax.Array]
) -> list[jax.Array]:
    """Returns arrays that vary over all mesh axes over which examples do.

    Gradients of arrays that did not are summed over the axes that are added. Outside of
    `shard_map` nothing varies, and nothing is changed.
    """
    axes = frozenset[str]().union(*map(_varying_axes, examples))
    return [_vary(array, axes) for array in arrays]


def _varying_axes(array):
    """Returns the mesh axes over which an array varies inside `shard_map`."""
    kind = jax.typeof(array)
    manual = getattr(kind, "manual_axis_type", None)  # jax 0.11 and later
    axes = getattr(kind, "vma", None) if manual is None else manual.varying
    return frozenset(axes or ())


def _vary(array, axes):
    """Marks an array as varying over mesh axes."""
    missing = tuple(axes - _varying_axes(array))
    return jax.lax.pcast(array, missing, to="varying") if missing else array
