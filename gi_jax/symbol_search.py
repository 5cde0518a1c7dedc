"""From a picture to symbols that minimize |error|² + λ bits, λ = 0.1 D².

How many Gaussians there are follows from that, and so do all quantization steps (see
`sensitivity_matched`): the step D alone chooses between size and quality.

    start ─> fit ─> round ─> (descend ─> restore ─> fit ─> round)* ─> descend

A fit moves real numbers, with births and deaths; descent moves the integers that were
rounded from them, by what they truly cost.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gi_jax.coding.descent import TRADE_OFF, Descent, descend
from gi_jax.coding.rates import rate_tables, symbol_bits
from gi_jax.coding.sensitivity import SensitivityParams, Symbols, sensitivity_matched
from gi_jax.coding.sensitivity_codec import quantized_mean
from gi_jax.fitting.densification import unborn
from gi_jax.fitting.fit_step import FitState
from gi_jax.fitting.rate_distortion import (
    Schedule,
    fit_schedule,
    make_rate_step,
    num_started,
    refine_schedule,
    start_fit,
)
from gi_jax.gaussians import Cholesky
from gi_jax.rendering.rasterize import Implementation

# Sweeps of descent between two estimates of what symbols cost.
_SWEEPS_PER_ESTIMATE: Final = 3

# Steps of a fit between two looks from Python.
_STEPS_PER_LOOK: Final = 25

# What a sweep takes, in steps of a fit: it renders for each kind of move.
SWEEP_STEPS: Final = 20

# Pixels per Gaussian of the capacity, which is never filled where that does not pay.
_PIXELS_PER_SLOT: Final = 32


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work is done."""

    fit_steps: int  # of the first fit
    rounds: int = 0  # of refinement, each between descents
    round_steps: int = 0
    sweeps: int = 0  # of descent before each round
    last_sweeps: int = 0  # of descent at the end

    @property
    def work(self) -> int:
        """All of it, in steps of a fit."""
        sweeps = self.rounds * self.sweeps + self.last_sweeps
        return self.fit_steps + self.rounds * self.round_steps + SWEEP_STEPS * sweeps


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


# (work done, in steps of a fit; PSNR of the unrounded picture, dB) -> None
Report = Callable[[int, float], Any]


class Search:
    """Searches the symbols of one picture, at one step D after the other."""

    def __init__(
        self,
        pixels: np.ndarray,
        *,
        seed: int = 0,
        implementation: Implementation | None = None,
        report: Report = lambda work, psnr: None,
    ):
        """Prepares the programs.

        Args:
          pixels: [H, W, C] float32 in 0..1.
          seed: of everything random.
          implementation: of `rasterize`.
          report: is told about progress.
        """
        self.image_size = pixels.shape[0], pixels.shape[1]
        self.mean = quantized_mean(pixels.mean(axis=(0, 1)))
        self._target = jnp.asarray(pixels - self.mean)
        self._capacity = math.ceil(pixels.shape[0] * pixels.shape[1] / _PIXELS_PER_SLOT)
        self._programs = _make_programs(pixels.shape, self._capacity, implementation)
        self._key = jax.random.key(seed)
        self._report = report

    def fit(self, step: float, steps: int) -> Symbols:
        """Fits from nothing and rounds."""
        gaussians = self._programs.start(self._next_key(), self._target)
        count = jnp.int32(num_started(self._capacity))
        return self._fit(gaussians, count, step, fit_schedule(steps), steps)

    def refine(
        self, symbols: Symbols, old_step: float, step: float, steps: int
    ) -> Symbols:
        """Goes on from symbols as real numbers, with births, and rounds by `step`."""
        gaussians, count = self._programs.restore(symbols, jnp.float32(old_step))
        return self._fit(gaussians, count, step, refine_schedule(steps), steps)

    def descend(self, symbols: Symbols, step: float, sweeps: int) -> Symbols:
        """Takes sweeps of discrete descent."""
        while sweeps > 0:
            count = min(sweeps, _SWEEPS_PER_ESTIMATE)
            rates = rate_tables(symbols, self.image_size)
            after = self._programs.descend(
                symbols, self._target, jnp.float32(step), rates, self._next_key(), count
            )
            symbols = after.symbols
            self._report(SWEEP_STEPS * count, _psnr(jnp.mean(after.residual**2)))
            sweeps -= count
        return symbols

    def _fit(self, gaussians, count, step, schedule, steps):
        state = self._programs.begin(gaussians, count, self._next_key())
        size = jnp.float32(step)
        while (done := int(state.step)) < steps:
            now = min(_STEPS_PER_LOOK, steps - done)
            state, error = self._programs.advance(
                state, self._target, size, schedule, now
            )
            self._report(now, _psnr(error))
        return self._programs.round(state, size)

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key


class _Programs(NamedTuple):
    """The jitted parts, one set for each size of picture."""

    start: Callable[..., Cholesky]  # (key, target)
    begin: Callable[..., FitState]  # (gaussians, num_born, key)
    advance: Callable[..., tuple[FitState, jax.Array]]
    round: Callable[..., Symbols]  # (state, D)
    restore: Callable[..., tuple[Cholesky, jax.Array]]  # (symbols, D)
    descend: Callable[..., Descent]


@functools.lru_cache(maxsize=8)
def _make_programs(image_shape, capacity, implementation):
    image_size = image_shape[:2]
    quantizer = sensitivity_matched(image_size, 1.0)

    def make_step(size, schedule):
        return make_rate_step(
            capacity,
            image_shape,
            size,
            schedule,
            trade_off=TRADE_OFF,
            implementation=implementation,
        )

    @jax.jit
    def start(key, target):
        return start_fit(key, target, capacity, implementation)

    @jax.jit
    def begin(gaussians, num_born, key):
        return make_step(1.0, fit_schedule(1)).init(gaussians, key, num_born)

    @jax.jit
    def advance(state, target, size, schedule: Schedule, steps):
        fit_step = make_step(size, schedule)

        # Metrics are those of whole pictures: here the mean is missing.
        def body(_, carry):
            state, _, residual = fit_step.advance(carry[0], target)
            return fit_step.grow_if_due(state, residual), jnp.mean(residual**2)

        return jax.lax.fori_loop(0, steps, body, (state, jnp.float32(0)))

    @jax.jit
    def round_(state, size):
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
    def descend_(symbols, target, size, rates, key, sweeps):
        return descend(
            symbols,
            target,
            size,
            lambda candidates: symbol_bits(rates, candidates, image_size),
            key,
            sweeps=sweeps,
            trade_off=TRADE_OFF,
            implementation=implementation,
        )

    return _Programs(start, begin, advance, round_, restore, descend_)


def _psnr(mean_squared_error: jax.Array) -> float:
    return -10 * math.log10(max(float(mean_squared_error), 1e-12))
