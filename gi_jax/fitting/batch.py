"""`fit_batch`: many pictures of one size at once, on one device or several."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gi_jax.arguments import check_integer
from gi_jax.fitting.arguments import checked_image, checked_weights
from gi_jax.fitting.fit import FitDivergedError, FitResult, choose_recipe
from gi_jax.fitting.loop import make_batch_programs, quality, run_chunks
from gi_jax.fitting.losses import get_loss
from gi_jax.fitting.presets import Preset, Recipe
from gi_jax.progress import Bar
from gi_jax.rendering.rasterize import Implementation


def fit_batch(
    images: ArrayLike | Sequence[ArrayLike],
    num_gaussians: int = 10_000,
    steps: int = 500,
    *,
    preset: Preset = "fast",
    loss: str | Callable[[jax.Array, jax.Array], jax.Array] = "l2",
    seed: int = 0,
    weights: ArrayLike | Sequence[ArrayLike] | None = None,
    recipe: Recipe | None = None,
    implementation: Implementation | None = None,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> list[FitResult]:
    """Fits Gaussians to each of many pictures of one size, all at the same time.

    A GPU is busier with many small pictures than with one: each kernel is launched
    once for all of them. Pictures are spread evenly over the devices, which work on
    their own. On a CPU this is no faster than one `fit` after the other.

    Args:
      images: [B, H, W, C] or B pictures [H, W, C]; values as those of `fit`.
      num_gaussians: N of each picture.
      steps: as in `fit`.
      preset: as in `fit`.
      loss: as in `fit`.
      seed: of everything random; picture b of the batch draws from its own stream.
      weights: [B, ...] or B of them, each as in `fit`.
      recipe: settings instead of the preset's.
      implementation: of `rasterize`.
      devices: where to work; by default all of this process and the default backend.
      progress: shows a bar with the mean PSNR and remaining time on standard error.

    Returns:
      One result for each picture; `seconds` is the time of the whole batch.

    Raises:
      ValueError: on pictures of different sizes, and where `fit` raises it.
      FitDivergedError: if any of the fits diverges.
    """
    start = time.perf_counter()
    if getattr(images, "ndim", 4) == 3:
        raise ValueError("images: expected [B, H, W, C], got a single picture")
    images = [*images]  # type: ignore[misc]
    if weights is not None and len(weights) != len(images):  # type: ignore[arg-type]
        raise ValueError(
            f"weights: expected those of {len(images)} pictures, got {len(weights)}"  # type: ignore[arg-type]
        )
    known: list[Any] = [None] * len(images)
    if weights is not None:
        known = [*map(checked_weights, weights, images)]  # type: ignore[arg-type]
    pictures = [*map(checked_image, images, known)]
    shapes = sorted({picture.shape for picture in pictures})
    if len(shapes) != 1:
        raise ValueError(f"images: expected pictures of one size, got {shapes}")
    check_integer("num_gaussians", num_gaussians, least=1)
    check_integer("steps", steps, least=0)
    if recipe is None:
        recipe = choose_recipe(preset, num_gaussians, shapes[0], steps)
    devices = tuple(jax.local_devices() if devices is None else devices)
    devices = devices[: len(pictures)]
    if not devices:
        raise ValueError("devices: expected at least one")
    loss_function = get_loss(loss) if isinstance(loss, str) else loss
    programs = make_batch_programs(recipe, loss_function, implementation, devices)

    # Every device takes as many: the last picture is fitted again where some are left.
    count = len(pictures)
    padded = -(-count // len(devices)) * len(devices)
    target = jnp.stack(pictures + pictures[-1:] * (padded - count))
    all_weights = None
    if weights is not None:
        shape = target.shape[1:]
        every = [np.broadcast_to(each, shape) for each in known]
        all_weights = jnp.stack(every + every[-1:] * (padded - count))
    keys = jax.random.split(jax.random.key(seed), padded)
    losses, psnrs = [np.zeros((count, 0))], [np.zeros((count, 0))]
    # What is chosen by the device is to be chosen for these.
    with (
        jax.default_device(devices[0]),
        Bar(
            total=recipe.steps,
            desc=f"fit {count} pictures",
            unit="step",
            file=sys.stderr,
            disable=not progress,
        ) as bar,
    ):
        state = programs.start(keys, target, all_weights)
        chunks = run_chunks(programs, state, target, recipe.steps, weights=all_weights)
        for _, latest, metrics in chunks:
            state = latest
            if not metrics.finite[:count, -1].all():
                diverged = np.flatnonzero(~metrics.finite[:count, -1])
                raise FitDivergedError(
                    f"the fits of pictures {diverged.tolist()} diverged; try another "
                    "seed, more Gaussians or lower rates"
                )
            losses.append(np.asarray(metrics.loss)[:count])
            psnrs.append(np.asarray(metrics.psnr)[:count])
            bar.set_postfix_str(f"{psnrs[-1][:, -1].mean():.2f} dB", refresh=False)
            bar.update(metrics.loss.shape[1])
        gaussians, born = jax.device_get((state.gaussians, state.num_born))
        quality_of_each = quality(programs, state, target, all_weights)
    seconds = time.perf_counter() - start
    loss_log, psnr_log = np.concatenate(losses, 1), np.concatenate(psnrs, 1)
    return [
        FitResult(
            jax.tree.map(lambda leaf, b=b: jnp.asarray(leaf[b, : born[b]]), gaussians),
            float(quality_of_each[b]),
            {
                "step": np.arange(loss_log.shape[1]),
                "loss": loss_log[b],
                "psnr": psnr_log[b],
            },
            seconds,
            None,
        )
        for b in range(count)
    ]
