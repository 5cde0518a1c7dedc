"""`encode` and `compress`: from a picture to the bytes of a file."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gi_jax.coding import descent
from gi_jax.coding.bitstream import Header, find_problem
from gi_jax.coding.codec import PAPER_CODEC, paper_quantizer, write_gaussians
from gi_jax.coding.rates import rate_tables, symbol_bits
from gi_jax.coding.sensitivity import SensitivityParams, Symbols, sensitivity_matched
from gi_jax.coding.sensitivity_codec import (
    MAX_STEP,
    MIN_STEP,
    SENSITIVITY_CODEC,
    quantized_mean,
    write_symbols,
)
from gi_jax.fitting.densification import unborn
from gi_jax.fitting.fit import check_count, checked_image, fit
from gi_jax.fitting.presets import Preset, fine_tuning
from gi_jax.fitting.rate import TRADE_OFF
from gi_jax.fitting.rate_distortion import (
    fit_schedule,
    num_started,
    refine_schedule,
    run_fit,
    start_fit,
)
from gi_jax.gaussians import Cholesky, canonical
from gi_jax.rendering.rasterize import Implementation

# Pixels per Gaussian where no number is asked for, as 10,000 on 768×512.
_PIXELS_PER_GAUSSIAN: Final = 40


def encode(
    image: ArrayLike,
    *,
    num_gaussians: int | None = None,
    steps: int = 500,
    fine_tuning_steps: int | None = None,
    preset: Preset = "fast",
    seed: int = 0,
    shape_bits: int = 7,
    codebook_size: int = 32,
    num_stages: int = 2,
    implementation: Implementation | None = None,
    progress: bool = True,
) -> bytes:
    """Compresses a picture: fit, quantization-aware fine-tuning, entropy coding.

    The defaults of `shape_bits` and `codebook_size` are better at equal rate than the
    paper's 6 and 8, which the short fine-tuning cannot make up for.

    Args:
      image: [H, W, C] or [H, W]; floats in 0..1, uint8 or uint16; 1 to 16 channels.
      num_gaussians: N; by default one for each 40 pixels.
      steps: of the fit, see `fit`.
      fine_tuning_steps: with quantization in the loop; by default half of `steps`.
      preset: of the fit.
      seed: of everything random.
      shape_bits: of each shape parameter, 1 to 8.
      codebook_size: entries of each colour codebook, 1 to 256.
      num_stages: colour codebooks that add up, 1 to 8.
      implementation: of `rasterize`.
      progress: shows bars on standard error.

    Returns:
      The file. `decode` needs nothing else.

    Raises:
      ValueError: on an image or a number that is not as described.

    Reference:
      GaussianImage, arXiv:2403.08551, section 3.3.
    """
    pixels = checked_image(image)
    height, width, channels = pixels.shape
    if num_gaussians is None:
        num_gaussians = math.ceil(height * width / _PIXELS_PER_GAUSSIAN)
    if fine_tuning_steps is None:
        fine_tuning_steps = steps // 2
    quantizer = paper_quantizer(
        (height, width),
        shape_bits=shape_bits,
        codebook_size=codebook_size,
        num_stages=num_stages,
    )
    # Before the work, not after it.
    header = Header(PAPER_CODEC, 1, width, height, channels, num_gaussians)
    if problem := find_problem(header):
        raise ValueError(problem)
    check_count("fine_tuning_steps", fine_tuning_steps, least=0)
    fitted = fit(
        pixels,
        num_gaussians,
        steps,
        preset=preset,
        seed=seed,
        implementation=implementation,
        progress=progress,
    )
    tuned = fit(
        pixels,
        initial=canonical(fitted.gaussians),
        steps=fine_tuning_steps,
        recipe=fine_tuning(fine_tuning_steps),
        seed=seed,
        quantizer=quantizer,
        implementation=implementation,
        progress=progress,
    )
    assert tuned.quantizer is not None
    return write_gaussians(
        tuned.gaussians,
        tuned.quantizer.params,
        tuned.quantizer.state,
        (height, width),
        shape_bits=shape_bits,
    )


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work `compress` does."""

    fit_steps: int  # of the first fit
    rounds: int = 0  # of refinement, each followed by descent
    round_steps: int = 0
    sweeps: int = 0  # of descent after the fit and after each round but the last
    last_sweeps: int = 0  # of descent at the end


EFFORTS: Final = {
    1: Effort(100),
    2: Effort(100, last_sweeps=2),
    3: Effort(150, 1, 50, 2, 4),
    4: Effort(150, 3, 50, 2, 5),
    5: Effort(200, 5, 60, 2, 6),
    6: Effort(300, 6, 80, 2, 8),
    7: Effort(400, 8, 100, 3, 10),
    8: Effort(500, 10, 120, 3, 12),
    9: Effort(600, 14, 120, 4, 16),
}

# Sweeps of descent between two estimates of what symbols cost.
_SWEEPS_PER_ESTIMATE: Final = 3

# Pixels per Gaussian of the capacity, which is never filled where that does not pay.
_PIXELS_PER_SLOT: Final = 32


def compress(
    image: ArrayLike,
    *,
    step: float,
    effort: int = 5,
    seed: int = 0,
    implementation: Implementation | None = None,
) -> bytes:
    """Compresses a picture by minimizing |error|² + λ bits, λ = 0.1 D².

    How many Gaussians there are follows from that, and so do all quantization steps
    (see `sensitivity_matched`): D alone chooses between size and quality.

    Args:
      image: [H, W, C] or [H, W]; floats in 0..1, uint8 or uint16; 1 to 16 channels.
      step: D, in colour · pixels. 0.1 to 1 is 0.1 to 1 bits per pixel of photos.
      effort: 1, the fastest, to 9, the smallest files.
      seed: of everything random.
      implementation: of `rasterize`.

    Returns:
      The file. `decode` needs nothing else.

    Raises:
      ValueError: on an image or a number that is not as described.
    """
    pixels = checked_image(image)
    height, width, channels = pixels.shape
    if effort not in EFFORTS:
        raise ValueError(f"effort: expected 1 to 9, got {effort!r}")
    if not MIN_STEP <= step <= MAX_STEP:  # NaN is neither.
        raise ValueError(f"step: expected {MIN_STEP} to {MAX_STEP}, got {step}")
    plan = EFFORTS[effort]
    capacity = math.ceil(height * width / _PIXELS_PER_SLOT)
    header = Header(SENSITIVITY_CODEC, 2, width, height, channels, capacity)
    if problem := find_problem(header):
        raise ValueError(problem)
    mean = quantized_mean(pixels.mean(axis=(0, 1)))
    target = jnp.asarray(pixels - mean)
    programs = _programs((height, width), capacity, implementation)
    key, for_start = jax.random.split(jax.random.key(seed))
    size = jnp.float32(step)

    def descend(symbols, sweeps, key):
        while sweeps > 0:
            count = min(sweeps, _SWEEPS_PER_ESTIMATE)
            rates = rate_tables(symbols, (height, width))
            key, for_sweeps = jax.random.split(key)
            symbols = programs.descend(symbols, target, size, rates, for_sweeps, count)
            sweeps -= count
        return symbols

    gaussians = programs.start(for_start, target)
    symbols = programs.fit(
        gaussians,
        jnp.int32(num_started(capacity)),
        target,
        size,
        fit_schedule(plan.fit_steps),
        plan.fit_steps,
        key,
    )
    for _ in range(plan.rounds):
        key, for_descent, for_fit = jax.random.split(key, 3)
        symbols = descend(symbols, plan.sweeps, for_descent)
        gaussians, count = programs.restore(symbols, size)
        schedule = refine_schedule(plan.round_steps)
        symbols = programs.fit(
            gaussians, count, target, size, schedule, plan.round_steps, for_fit
        )
    symbols = descend(symbols, plan.last_sweeps, key)
    return write_symbols(symbols, size, mean, (height, width))


class _Programs(NamedTuple):
    """The jitted parts of `compress`, one set for each size of picture."""

    start: Callable[..., Cholesky]
    fit: Callable[..., Symbols]
    restore: Callable[..., tuple[Cholesky, jax.Array]]
    descend: Callable[..., Symbols]


@functools.lru_cache(maxsize=8)
def _programs(image_size, capacity, implementation):
    quantizer = sensitivity_matched(image_size, 1.0)

    @jax.jit
    def start(key, target):
        return start_fit(key, target, capacity, implementation)

    @jax.jit
    def run(gaussians, num_born, target, size, schedule, steps, key):
        state = run_fit(
            gaussians,
            num_born,
            target,
            size,
            schedule,
            steps,
            key,
            trade_off=TRADE_OFF,
            implementation=implementation,
        )
        symbols = quantizer.encode(SensitivityParams(size), (), state.gaussians)
        born = jnp.arange(capacity) < state.num_born
        return symbols._replace(colors=jnp.where(born[:, None], symbols.colors, 0))

    @jax.jit
    def restore(symbols, size):
        used = jnp.any(symbols.colors != 0, axis=1)
        order = jnp.argsort(~used, stable=True)
        symbols = jax.tree.map(lambda leaf: leaf[order], symbols)
        gaussians = quantizer.decode(SensitivityParams(size), (), symbols)
        rest = unborn(capacity, symbols.colors.shape[1])
        count = jnp.sum(used, dtype=jnp.int32)
        born = (jnp.arange(capacity) < count)[:, None]
        return jax.tree.map(lambda a, b: jnp.where(born, a, b), gaussians, rest), count

    @jax.jit
    def descend(symbols, target, size, rates, key, sweeps):
        return descent.descend(
            symbols,
            target,
            size,
            lambda candidates: symbol_bits(rates, candidates, image_size),
            key,
            sweeps=sweeps,
            trade_off=TRADE_OFF,
            implementation=implementation,
        ).symbols

    return _Programs(start, run, restore, descend)
