"""`encode`: from a picture to the smallest file of a quality, or the best of a size."""

import math
import sys
import warnings
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gi_jax.arguments import check_positive
from gi_jax.coding.bitstream import Header, find_problem
from gi_jax.coding.codec import decode
from gi_jax.coding.sensitivity import Symbols
from gi_jax.coding.sensitivity_codec import (
    MAX_STEP,
    MIN_STEP,
    SENSITIVITY_CODEC,
    write_symbols,
)
from gi_jax.fitting.arguments import checked_image
from gi_jax.progress import Bar
from gi_jax.rendering.rasterize import Implementation
from gi_jax.symbol_search import EFFORTS, Effort, Search
from gi_jax.transparency import (
    as_seen,
    error_weights,
    fill_unseen,
    is_transparent,
)
from gi_jax.visibility import visibility_weights

Tune = Literal["psnr", "ssim"]

# Steps D, in colour · pixels, of the qualities 1 and 100; between them a geometric row.
_COARSEST: Final = 1.5
_FINEST: Final = 0.03

# Pictures are narrow below this, pixels, about the width of usual Gaussians: the same
# error of colour has less energy there, so that it takes a finer step.
_NARROW: Final = 4

# A target may ask for steps up to here. Coarser ones leave the mean colour alone.
_MIN_STEP: Final = 2.0**-9
_MAX_STEP: Final = 2.0**5

# Where the search for a target starts, for a picture of usual detail.
_USUAL_BPP_STEPS: Final = 0.11  # bits per pixel times D
_USUAL_PSNR: Final = 31.0  # dB at D = 0.3

# How the logarithm of the size, and PSNR in dB, usually fall with the logarithm of D.
_SIZE_SLOPE: Final = -1.25
_PSNR_SLOPE: Final = -6.0

# A file is near enough to its target: bytes (relative) below, dB above.
_NEAR: Final = {"bytes": 0.01, "psnr": 0.05}
_MAX_TRIALS: Final = 8

# Files with a smaller share of the bytes that they may have are worth a warning.
_FAR: Final = 0.9

# Least ratio of D from one trial to the next where they do not enclose the goal.
_NUDGE: Final = 1.03

# Where D changes, Gaussians are refined for so many steps, and more the more it does.
_TRIAL_STEPS: Final = 15
_TRIAL_STEPS_PER_OCTAVE: Final = 60
_TRIAL_SWEEPS: Final = 3


class _Goal(NamedTuple):
    """What the file is to reach."""

    kind: str  # 'bytes', at most, or 'psnr', at least
    value: float
    text: str  # as it was asked for


def encode(
    image: ArrayLike,
    *,
    quality: int | None = None,
    step: float | None = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    effort: int = 5,
    tune: Tune = "psnr",
    exact: bool = False,
    seed: int = 0,
    implementation: Implementation | None = None,
    progress: bool = True,
) -> bytes:
    """Compresses a picture by minimizing |error|² + λ bits.

    One of `quality`, `step` and the targets says where between size and quality; by
    default it is quality=50.

    Args:
      image: [H, W, C] or [H, W]; floats in 0..1, uint8 or uint16; 1 to 16 channels.
        The last of 2 or 4 channels is alpha: errors of colours count as much as they
        are seen, and where alpha is 0 the file has other, smooth colours.
      quality: 1, the smallest files, to 100. Pictures of less than 4 rows or columns
        get finer steps than others of the same quality.
      step: the quantization step D itself, in colour · pixels; photos take 0.1 to 1
        bits per pixel at steps of about 1 to 0.1.
      target_bytes: the largest file, at most. If even the file of the mean colour is
        larger, that is an error; if no file of this picture becomes so large, the
        finest one is returned with a warning.
      target_bpp: the same in bits per pixel.
      target_psnr: of the decoded 8-bit picture, dB, at least; with alpha, of alpha and
        the colours times alpha.
      effort: 1, the fastest, to 9, the smallest files.
      tune: what is to be best at a size: 'psnr', or 'ssim': there errors count less
        where contrast hides them (`visibility_weights`).
      exact: the channels are data: none of them is alpha.
      seed: of everything random.
      implementation: of `rasterize`.
      progress: shows a bar with PSNR and remaining time on standard error.

    Returns:
      The file. `decode` needs nothing else.

    Raises:
      ValueError: on an image or a number that is not as described, or a target that
        cannot be met.
      FitDivergedError: if the search diverges.
    """
    pixels = checked_image(image)
    height, width, channels = pixels.shape
    if not isinstance(effort, int | np.integer) or effort not in EFFORTS:
        raise ValueError(f"effort: expected 1 to 9, got {effort!r}")
    if tune not in get_args(Tune):
        raise ValueError(f"tune: expected one of {get_args(Tune)}, got {tune!r}")
    if problem := find_problem(
        Header(SENSITIVITY_CODEC, 2, width, height, channels, 0)
    ):
        raise ValueError(problem)
    goal, first_step = _choose_goal(
        pixels.shape, quality, step, target_bytes, target_bpp, target_psnr
    )
    plan = EFFORTS[effort]
    transparent = not exact and is_transparent(pixels)
    weights, seen = None, pixels
    if transparent:
        weights, seen = error_weights(pixels), as_seen(pixels)
        pixels = fill_unseen(pixels)
    if tune == "ssim":
        visibility = np.asarray(visibility_weights(jnp.asarray(seen)))
        weights = visibility if weights is None else visibility * weights
    with Bar(
        total=plan.work,
        desc="encode",
        unit="step",
        file=sys.stderr,
        disable=not progress,
    ) as bar:

        def report(work, psnr):
            bar.set_postfix_str(f"{psnr:.2f} dB", refresh=False)
            bar.total = max(bar.total, bar.n + work)
            bar.update(work)

        search = Search(
            pixels,
            first_step,
            weights=weights,
            seed=seed,
            implementation=implementation,
            report=report,
        )
        if goal is None:
            symbols = search.search(first_step, plan)
            return _write(search, symbols, first_step)

        def psnr(data):
            decoded = decode(data, implementation=implementation) / np.float32(255)
            decoded = as_seen(decoded) if transparent else decoded
            error = float(np.mean((decoded - seen) ** 2))
            return -10 * math.log10(max(error, 1e-12))

        measure = len if goal.kind == "bytes" else psnr
        return _to_goal(search, measure, goal, first_step, plan)


def _choose_goal(image_shape, quality, step, target_bytes, target_bpp, target_psnr):
    """Returns the goal, or None where D is given, and the first D."""
    given = {
        "quality": quality,
        "step": step,
        "target_bytes": target_bytes,
        "target_bpp": target_bpp,
        "target_psnr": target_psnr,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"expected one of {[*given]}, got all of them")
    ((name, value),) = given.items() or {"quality": 50}.items()
    text = f"{name}={value}"
    value = check_positive(name, value)
    if name == "quality":
        if not 1 <= value <= 100:
            raise ValueError(f"quality: expected 1 to 100, got {value}")
        ratio = (_FINEST / _COARSEST) ** ((value - 1) / 99)
        narrow = (min(side / _NARROW, 1) for side in image_shape[:2])
        return None, _COARSEST * ratio * math.sqrt(math.prod(narrow))
    if name == "step":
        if not MIN_STEP <= value <= MAX_STEP:  # Before the work, not after it.
            raise ValueError(f"step: expected {MIN_STEP} to {MAX_STEP}, got {value}")
        return None, value
    if name == "target_psnr":
        first = 0.3 * math.exp((value - _USUAL_PSNR) / _PSNR_SLOPE)
        return _Goal("psnr", value, text), _bounded(first)
    num_pixels = image_shape[0] * image_shape[1]
    if name == "target_bpp":
        value = value * num_pixels / 8
    least = len(_write_mean(np.zeros(image_shape[2]), image_shape[:2]))
    if value < least:
        raise ValueError(
            f"{text} cannot be met: the smallest possible file of this picture, its "
            f"mean colour, has {least} bytes ({8 * least / num_pixels:.3g} bpp)"
        )
    first = _USUAL_BPP_STEPS * num_pixels / (8 * value)
    return _Goal("bytes", math.floor(value), text), _bounded(first)


def _to_goal(
    search: Search,
    measure: Callable[[bytes], float],
    goal: _Goal,
    step: float,
    plan: Effort,
) -> bytes:
    """Returns a file that reaches a goal, near to it.

    D follows the goal from round to round, and is bisected at the end; every trial goes
    on from the Gaussians of the one before.

    Raises:
      ValueError: if there is none.
    """
    trials: dict[float, float] = {}  # step -> bytes or PSNR

    def look(symbols, step) -> bytes:
        data = _write(search, symbols, step)
        trials[step] = measure(data)
        return data

    def change(symbols, step, new_step, least_steps) -> Symbols:
        octaves = abs(math.log2(new_step / step))
        steps = least_steps + round(_TRIAL_STEPS_PER_OCTAVE * min(octaves, 3))
        return search.refine(symbols, step, new_step, steps)

    symbols = search.fit(step, plan.fit_steps)
    for _ in range(plan.rounds):
        symbols, _ = search.descend(symbols, step, plan.sweeps)
        look(symbols, step)
        new_step = _next_step(goal, {step: trials[step]})
        symbols = change(symbols, step, new_step, plan.round_steps)
        step = new_step
    symbols, _ = search.descend(symbols, step, plan.last_sweeps)
    trials.clear()  # Those that were not descended from to the end say little.

    best, best_value = None, math.nan
    for _ in range(_MAX_TRIALS):
        data = look(symbols, step)
        value = trials[step]
        met = value <= goal.value if goal.kind == "bytes" else value >= goal.value
        if met and (
            best is None or abs(value - goal.value) < abs(best_value - goal.value)
        ):
            best, best_value = data, value
        if met and _is_near(goal, value):
            break
        new_step = _next_step(goal, trials)
        if new_step in trials:
            break
        symbols = change(symbols, step, new_step, _TRIAL_STEPS)
        step = new_step
        sweeps = min(_TRIAL_SWEEPS, plan.last_sweeps)
        symbols, _ = search.descend(symbols, step, sweeps)
    reached = ", ".join(f"{value:.4g}" for value in sorted(trials.values()))
    if best is None and goal.kind == "bytes":
        return _write_mean(search.mean, search.image_size)  # `_choose_goal` saw to it.
    if best is None:
        raise ValueError(f"{goal.text} cannot be met: reached psnr of {reached} dB")
    if goal.kind == "bytes" and best_value < _FAR * goal.value:
        warnings.warn(
            f"{goal.text}: the file has {best_value} bytes, and more were not of use",
            stacklevel=3,
        )
    return best


def _next_step(goal: _Goal, trials: dict[float, float]) -> float:
    """Returns the step D whose file should reach the goal, by what trials reached.

    Between trials on both sides of the goal it interpolates, in logarithms; beyond them
    it extrapolates, at first by the usual slope. Where trials are not in order, as
    files differ a little by chance, it goes on to the side where the goal is met.
    """
    aim, slope = goal.value, _PSNR_SLOPE
    if goal.kind == "bytes":
        aim, slope = math.log(goal.value * (1 - _NEAR["bytes"] / 2)), _SIZE_SLOPE
        trials = {step: math.log(value) for step, value in trials.items()}
    else:
        aim += _NEAR["psnr"] / 2
    coarse = {step: value for step, value in trials.items() if value <= aim}
    fine = {step: value for step, value in trials.items() if value > aim}
    if coarse and fine and max(fine) < min(coarse):
        low, high = max(fine), min(coarse)
        share = (fine[low] - aim) / (fine[low] - coarse[high])
        # Away from the ends, so that every trial narrows the bracket.
        share = min(max(share, 0.1), 0.9)
        return low * (high / low) ** share
    if coarse and fine:
        coarser = goal.kind == "bytes"
        return _bounded(max(trials) * _NUDGE if coarser else min(trials) / _NUDGE)
    step, *others = sorted(trials, reverse=bool(fine))
    if others:
        seen = (trials[step] - trials[others[0]]) / math.log(step / others[0])
        slope = min(max(seen, 4 * slope), slope / 4)
    ratio = math.exp((aim - trials[step]) / slope)
    return _bounded(step * (max(ratio, _NUDGE) if fine else min(ratio, 1 / _NUDGE)))


def _is_near(goal: _Goal, value: float) -> bool:
    if goal.kind == "bytes":
        return value >= goal.value * (1 - _NEAR["bytes"])
    return value <= goal.value + _NEAR["psnr"]


def _write(search: Search, symbols: Symbols, step: float) -> bytes:
    return write_symbols(symbols, step, search.mean, search.image_size)


def _write_mean(mean: np.ndarray, image_size: tuple[int, int]) -> bytes:
    """Returns the smallest file there is: one of the mean colour alone."""
    one = np.zeros(0, np.int32)
    nothing = Symbols(
        np.zeros((0, len(mean)), np.int32), one, one, one, np.zeros((0, 2), np.int32)
    )
    return write_symbols(nothing, 1.0, mean, image_size)


def _bounded(step: float) -> float:
    return min(max(step, _MIN_STEP), _MAX_STEP)
