"""Losses between a rendered picture and its target: pure functions, smaller is better.

The five of the paper's ablation (GaussianImage, arXiv:2403.08551, table 3), as its
release mixes them. L2 is the best of them for PSNR.

None clamps the picture to 0..1 first, as the release does: a clamp has gradient 0
outside that range, so a pixel that overshoots would no longer be pulled back.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gi_jax.metrics import check_pictures, mse, ssim

Loss = Callable[[ArrayLike, ArrayLike], jax.Array]

# Share of the base loss in the mixtures with SSIM; lambda in the paper's release.
BASE_SHARE: Final = 0.7


def l2(picture: ArrayLike, target: ArrayLike) -> jax.Array:
    """Returns the mean squared error, a scalar; both pictures are float [H, W, C]."""
    return mse(picture, target)


def l1(picture: ArrayLike, target: ArrayLike) -> jax.Array:
    """Returns the mean absolute error, a scalar; both pictures are float [H, W, C]."""
    picture, target = check_pictures(picture, target)
    return jnp.mean(jnp.abs(picture - target))


def ssim_loss(picture: ArrayLike, target: ArrayLike) -> jax.Array:
    """Returns 1 - SSIM, a scalar; both pictures are float [H, W, C]."""
    return 1 - ssim(picture, target)


def l1_ssim(picture: ArrayLike, target: ArrayLike) -> jax.Array:
    """Returns 0.7 L1 + 0.3 (1 - SSIM), a scalar; both pictures are float [H, W, C]."""
    base, structure = l1(picture, target), ssim_loss(picture, target)
    return BASE_SHARE * base + (1 - BASE_SHARE) * structure


def l2_ssim(picture: ArrayLike, target: ArrayLike) -> jax.Array:
    """Returns 0.7 L2 + 0.3 (1 - SSIM), a scalar; both pictures are float [H, W, C]."""
    base, structure = l2(picture, target), ssim_loss(picture, target)
    return BASE_SHARE * base + (1 - BASE_SHARE) * structure


def clamped(loss: Loss) -> Loss:
    """Returns `loss` of the picture clamped to 0..1, as the paper's release has it."""
    return lambda picture, target: loss(jnp.clip(picture, 0, 1), target)


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
