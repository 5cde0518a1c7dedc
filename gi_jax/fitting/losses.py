"""Losses between a rendered picture and its target: pure functions, smaller is better.

The five of the paper's ablation (GaussianImage, arXiv:2403.08551, table 3), as its
release mixes them. L2 is the best of them for PSNR.

None clamps the picture to 0..1 first, as the release does: a clamp has gradient 0
outside that range, so a pixel that overshoots would no longer be pulled back.
"""

import inspect
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gi_jax.metrics import check_pictures, mse, ssim, weighted_mean

# (picture, target) -> scalar; those of this module also take weights.
Loss = Callable[..., jax.Array]

# Share of the base loss in the mixtures with SSIM; lambda in the paper's release.
BASE_SHARE: Final = 0.7


def l2(
    picture: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> jax.Array:
    """Returns the mean squared error, a scalar.

    Args:
      picture: [H, W, C] float.
      target: [H, W, C] float.
      weights: [H, W, C] or [H, W, 1] of the squared errors; all alike by default.
    """
    return mse(picture, target, weights)


def l1(
    picture: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> jax.Array:
    """Returns the mean absolute error, a scalar; arguments are those of `l2`."""
    picture, target = check_pictures(picture, target)
    return weighted_mean(jnp.abs(picture - target), weights)


def ssim_loss(
    picture: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> jax.Array:
    """Returns 1 - SSIM, a scalar; arguments are those of `l2`.

    SSIM has no errors of single pixels to weigh: with weights it is that of `blended`.
    """
    return 1 - ssim(blended(picture, target, weights), target)


def l1_ssim(
    picture: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> jax.Array:
    """Returns 0.7 L1 + 0.3 (1 - SSIM), a scalar; arguments are those of `l2`."""
    base = l1(picture, target, weights)
    return BASE_SHARE * base + (1 - BASE_SHARE) * ssim_loss(picture, target, weights)


def l2_ssim(
    picture: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None
) -> jax.Array:
    """Returns 0.7 L2 + 0.3 (1 - SSIM), a scalar; arguments are those of `l2`."""
    base = l2(picture, target, weights)
    return BASE_SHARE * base + (1 - BASE_SHARE) * ssim_loss(picture, target, weights)


def blended(
    picture: ArrayLike, target: ArrayLike, weights: ArrayLike | None
) -> ArrayLike:
    """Returns the picture moved towards the target where weights are small.

    It is target + √(w / mean w) (picture - target): its squared error is the weighted
    one, and where a weight is 0 it is the target, so that no loss sees an error there.

    Args:
      picture: [H, W, C] float.
      target: [H, W, C] float.
      weights: [H, W, C] or [H, W, 1]; None gives the picture itself.
    """
    if weights is None:
        return picture
    picture, target = check_pictures(picture, target)
    relative = jnp.broadcast_to(weights, target.shape) / jnp.mean(weights)
    return target + jnp.sqrt(relative) * (picture - target)


def clamped(loss: Loss) -> Loss:
    """Returns `loss` of the picture clamped to 0..1, as the paper's release has it."""
    inner = weighted(loss)
    return lambda picture, target, weights=None: inner(
        jnp.clip(picture, 0, 1), target, weights
    )


def weighted(loss: Loss) -> Loss:
    """Returns (picture, target, weights) -> scalar, of any (picture, target) -> scalar.

    A loss with an argument `weights`, as those of this module, is given them. Any other
    is given the picture `blended` with the target.
    """
    if "weights" in inspect.signature(loss).parameters:
        return loss
    return lambda picture, target, weights=None: loss(
        blended(picture, target, weights), target
    )


LOSSES: Final = MappingProxyType(
    {
        "l2": l2,
        "l1": l1,
        "ssim": ssim_loss,
        "l1+ssim": l1_ssim,
        "l2+ssim": l2_ssim,
    }
)


def get_loss(name: str) -> Loss:
    """Returns the loss of that name.

    Raises:
      ValueError: where there is none.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name]
