"""`fit`: from a picture to Gaussians, with progress, checkpoints and early stopping."""

import functools
import hashlib
import inspect
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gi_jax.arguments import check_integer
from gi_jax.fitting import (
    densification,
    fit_step,
    initialization,
    losses,
    optimizers,
    presets,
)
from gi_jax.fitting.arguments import checked_image, checked_weights
from gi_jax.fitting.checkpoint import load_checkpoint, save_checkpoint
from gi_jax.fitting.fit_step import FitState, Metrics, QuantizerState
from gi_jax.fitting.loop import NO_GOAL, make_programs, quality, run_chunks
from gi_jax.fitting.losses import get_loss, l2
from gi_jax.fitting.presets import PRESETS, Preset, Recipe
from gi_jax.gaussians import Gaussians
from gi_jax.progress import Bar
from gi_jax.rendering.rasterize import Implementation, check_gaussians

if TYPE_CHECKING:  # Fitting does not depend on coding, but for this type.
    from gi_jax.coding.quantization import Quantizer

# Seconds between two checkpoints.
_CHECKPOINT_SECONDS: Final = 20.0

# What is worse than at the start by less than this is rounding: share of a loss, dB.
_LOSS_ROUNDING: Final = 1e-5
_PSNR_ROUNDING: Final = 0.01


class FitResult(NamedTuple):
    """What a fit gives."""

    gaussians: Gaussians  # N, or those born so far if `target_psnr` stopped the fit
    psnr: float  # dB, of the picture rounded to 8 bits
    history: dict[str, np.ndarray]  # 'step', 'loss', 'psnr' of every step
    seconds: float  # wall time, compilation included
    quantizer: QuantizerState | None  # what a quantizer learned


class FitDivergedError(ArithmeticError):
    """The loss or a parameter is not finite any more."""


def fit(
    image: ArrayLike,
    num_gaussians: int = 10_000,
    steps: int = 500,
    *,
    preset: Preset = "fast",
    loss: str | Callable[[jax.Array, jax.Array], jax.Array] = "l2",
    seed: int = 0,
    target_psnr: float | None = None,
    weights: ArrayLike | None = None,
    initial: Gaussians | None = None,
    recipe: Recipe | None = None,
    quantizer: "Quantizer | None" = None,
    implementation: Implementation | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: Callable[[FitState, Metrics], Any] | None = None,
    progress: bool = True,
) -> FitResult:
    """Fits Gaussians to a picture.

    Args:
      image: [H, W, C] in 0..1, or 8-bit integers; any C ≥ 1.
      num_gaussians: N.
      steps: the budget in renderings with their gradient; with 'fast' it includes what
        the initial colours cost.
      preset: 'fast' (this library's recipe) or 'paper' (GaussianImage's).
      loss: 'l2', 'l1', 'ssim', 'l1+ssim', 'l2+ssim', or a function (picture, target) ->
        scalar. A function is what steps go down, and nothing else: the start, the
        colours that are solved for, births and PSNR are by the squared error still. To
        leave pixels out of all of them, give `weights`.
      seed: of everything random; the same seed gives the same Gaussians on one machine.
      target_psnr: stop as soon as the 8-bit picture reaches this, dB.
      weights: [H, W], [H, W, 1] or [H, W, C] numbers or bools: weights of the squared
        errors, which every part of the fit obeys, 0 for pixels that are not known.
        Those may hold anything, NaN too, without influence on a bit of the result. PSNR
        is that of the weighted error. Losses with SSIM, and functions, see the picture
        blended with the target where weights are small (`losses.blended`).
      initial: Gaussians to start from instead of the preset's; N is theirs, and none
        are born or moved. A fit that leaves them worse warns.
      recipe: settings instead of the preset's.
      quantizer: makes the fit aware of this quantization (see `make_fit_step`).
      implementation: of `rasterize`.
      checkpoint: a file. It is written at the start, every 20 seconds and at the end;
        if it exists the fit goes on from there, to the same result bit for bit. Only
        with a preset and a loss by name, without a quantizer.
      callback: called after every chunk of steps with the state and the metrics of its
        steps. Where it raises StopIteration the fit ends as if its steps were done; any
        other exception goes on to the caller.
      progress: shows a bar with PSNR and remaining time on standard error.

    Returns:
      The result.

    Raises:
      ValueError: on an image, a number or a name that is not as described, or a
        checkpoint of another fit.
      FitDivergedError: if the fit diverges.
    """
    start = time.perf_counter()
    if weights is not None:
        weights = checked_weights(weights, image)
    target = jnp.asarray(checked_image(image, weights))
    weights = None if weights is None else jnp.asarray(weights)
    if initial is not None:
        check_gaussians(initial)
        num_gaussians = initial.means.shape[0]
    check_integer("num_gaussians", num_gaussians, least=1)
    check_integer("steps", steps, least=0)
    custom = recipe is not None or not isinstance(loss, str)
    if recipe is None:
        recipe = choose_recipe(preset, num_gaussians, target.shape, steps)
    settings = num_gaussians, steps, preset, loss, seed, implementation
    loss_function = get_loss(loss) if isinstance(loss, str) else loss
    programs = make_programs(
        recipe, loss_function, quantizer, implementation, initial is not None
    )
    goal = NO_GOAL if target_psnr is None else target_psnr

    if checkpoint is not None and (custom or quantizer is not None):
        raise ValueError(
            "checkpoint: expected a preset and a loss by name, without a quantizer; a "
            "fit with functions of its own could not be told from another"
        )

    key = jax.random.key(seed)
    log = np.full((recipe.steps, 2), np.nan, np.float32)
    fingerprint = _fingerprint((target, initial, weights), settings)
    if checkpoint is not None and os.path.exists(checkpoint):
        like = jax.eval_shape(programs.start, key, target, initial, weights), log
        state, log = load_checkpoint(checkpoint, like, fingerprint)
        log = np.array(log)
    else:
        state = programs.start(key, target, initial, weights)

    def save():
        if checkpoint is not None:
            save_checkpoint(checkpoint, (state, log), fingerprint)

    save()  # Before any work is done that a bad path could lose.
    last_save = time.perf_counter()
    with Bar(
        total=recipe.steps,
        initial=int(state.step),
        desc="fit",
        unit="step",
        file=sys.stderr,
        disable=not progress,
    ) as bar:
        chunks = run_chunks(programs, state, target, recipe.steps, goal, weights)
        for first, state, metrics in chunks:
            last = first + len(metrics.loss)
            log[first:last] = np.stack([metrics.loss, metrics.psnr], axis=1)
            if not metrics.finite[-1]:
                raise FitDivergedError(
                    f"the fit diverged in step {last} of {recipe.steps} (loss "
                    f"{metrics.loss[-1]}); try another seed, more Gaussians or lower "
                    "rates"
                )
            bar.set_postfix_str(f"{metrics.psnr[-1]:.2f} dB", refresh=False)
            bar.update(int(state.step) - first)
            if callback is not None:
                # A copy: the next chunk reuses the memory of the state itself.
                try:
                    callback(jax.tree.map(jnp.copy, state), metrics)
                except StopIteration:
                    break
            if time.perf_counter() - last_save > _CHECKPOINT_SECONDS:
                save()
                last_save = time.perf_counter()
    save()

    born = int(state.num_born)
    gaussians = jax.tree.map(lambda leaf: np.array(leaf[:born]), state.gaussians)
    quantizing = jax.tree.map(np.array, state.quantizer)
    psnr = float(quality(programs, state, target, weights))
    log = log[~np.isnan(log[:, 0])]
    if initial is not None:
        _warn_if_worse(log, loss, quantizer is not None)
    history: dict[str, np.ndarray] = {
        "step": np.arange(len(log)),
        "loss": log[:, 0],
        "psnr": log[:, 1],
    }
    seconds = time.perf_counter() - start
    gaussians, quantizing = jax.tree.map(jnp.asarray, (gaussians, quantizing))
    return FitResult(gaussians, psnr, history, seconds, quantizing)


def choose_recipe(
    preset: Preset, num_gaussians: int, image_shape: tuple[int, ...], steps: int
) -> Recipe:
    """Returns a preset's recipe, the same object for the same arguments.

    Raises:
      ValueError: on a preset that does not exist.
    """
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset: expected one of {[*PRESETS]}, got {preset!r}")
    return _make_recipe(preset, num_gaussians, image_shape, steps)


@functools.lru_cache(maxsize=32)
def _make_recipe(preset, num_gaussians, image_shape, steps):
    return PRESETS[preset](num_gaussians, image_shape, steps)


@functools.cache
def _code() -> str:
    """Identifies the code of fits: a checkpoint of another would go on otherwise."""
    digest = hashlib.sha256()
    for module in (
        fit_step,
        initialization,
        optimizers,
        densification,
        presets,
        losses,
    ):
        digest.update(inspect.getsource(module).encode())
    return digest.hexdigest()


def _fingerprint(arrays: Any, settings: tuple) -> str:
    """Identifies the picture, the start, the settings and the code of a fit."""
    leaves, structure = jax.tree.flatten(arrays)
    kinds = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    digest = hashlib.sha256(repr((_code(), settings, kinds, structure)).encode())
    for leaf in leaves:
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _warn_if_worse(log: np.ndarray, loss: Any, quantized: bool) -> None:
    """Warns where a fit from given Gaussians ends with a worse picture than they draw.

    By PSNR where the loss is the squared error, else by the loss; where there is a
    quantizer, the loss holds its auxiliary loss too, and PSNR must have fallen as well.

    Args:
      log: [steps, 2] loss and PSNR of each step.
      loss: as in `fit`.
      quantized: there is a quantizer.
    """
    if len(log) < 2:
        return
    lower = log[-1, 1] < log[0, 1] - _PSNR_ROUNDING
    higher = log[-1, 0] > (1 + _LOSS_ROUNDING) * log[0, 0]
    if lower if loss in ("l2", l2) else higher and (lower or not quantized):
        warnings.warn(
            f"the fit made the given Gaussians worse: the loss went from {log[0, 0]:g} "
            f"to {log[-1, 0]:g}, PSNR from {log[0, 1]:.2f} to {log[-1, 1]:.2f} dB; try "
            "more steps, or lower rates of the recipe's optimizer and, with a "
            "quantizer, of its quantizer_optimizer",
            stacklevel=3,
        )
