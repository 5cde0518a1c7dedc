"""From a picture to symbols that minimize |error|² + λ bits, λ = 0.08 D².

How many Gaussians there are follows from that, and so do all quantization steps (see
`sensitivity_matched`): the step D alone chooses between size and quality.

    start ─> fit at half the size ─> fit ─> settle ─┬─> descend ─> restore ─> fit ─┐
                                                    └──────────── settle <─────────┘

A fit moves real numbers, with births and deaths. Settling rounds some Gaussians after
the other for good, while those that are left make up for their errors. Descent moves
the integers by what they truly cost.

At half the size a fit takes a quarter of the time, and finds at least as good a place
to go on from. With D halved too it has the same objective: squared errors and the
energies of Gaussians are a quarter. It takes place in the corner of a picture of full
size, so that one compiled program does both.
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
from gi_jax.fitting.fit import FitDivergedError
from gi_jax.fitting.fit_step import FitState
from gi_jax.fitting.rate_distortion import (
    Schedule,
    fit_schedule,
    make_rate_step,
    num_started,
    refine_schedule,
    settle_schedule,
    start_fit,
)
from gi_jax.gaussians import Cholesky, where_rows
from gi_jax.rendering.rasterize import Implementation

# Sweeps of descent between two estimates of what symbols cost.
_SWEEPS_PER_ESTIMATE: Final = 3

# Steps of a fit between two looks from Python.
_STEPS_PER_LOOK: Final = 25

# The fit at full size after the one at half: it finds what is too fine for that.
_FINISH_STEPS: Final = 60
_FINISH_RATE: Final = 0.5
_FINISH_BIRTHS: Final = 6

# Shares of the Gaussians that are held one after the other, and steps with each.
_HELD: Final = (0.3, 0.5, 0.7, 0.85, 0.95)
_HELD_STEPS: Final = 8

# What a sweep takes, in steps of a fit: it renders for each kind of move.
_SWEEP_WORK: Final = 15

# Rounds go on while they lower the objective by this share.
_LEAST_GAIN: Final = 1e-3

# Pixels per Gaussian of the capacity, which is never filled where that does not pay;
# and where D is finer than a bound, for files of more than half a bit per pixel.
_PIXELS_PER_SLOT: Final = 32
_FINE_STEP: Final = 0.15
_PIXELS_PER_FINE_SLOT: Final = 12

# Narrower pictures have as much room as those of this width, pixels: Gaussians cannot
# be wider than what they have to describe along the other side.
_LEAST_SIDE: Final = 8


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work is done."""

    fit_steps: int  # of the first fit, at half the size
    rounds: int = 0  # of descent and refinement, at most
    last_sweeps: int = 0  # of descent at the end
    round_steps: int = 40
    sweeps: int = 2  # of descent in each round

    @property
    def work(self) -> int:
        """All of it, in steps of a fit."""
        settle = (self.rounds + 1) * _HELD_STEPS * len(_HELD)
        sweeps = self.rounds * self.sweeps + self.last_sweeps
        first = _half_work(self.fit_steps) + _FINISH_STEPS
        return first + settle + self.rounds * self.round_steps + _SWEEP_WORK * sweeps


EFFORTS: Final = {
    1: Effort(60),
    2: Effort(100, last_sweeps=2),
    3: Effort(150, 1, 3),
    4: Effort(200, 3, 4),
    5: Effort(200, 4, 6),
    6: Effort(250, 8, 8),
    7: Effort(300, 12, 10),
    8: Effort(300, 20, 12),
    9: Effort(400, 60, 16),
}


# (work done, in steps of a fit; PSNR of the unrounded picture, with the weights of
# errors where there are some, dB) -> None
Report = Callable[[int, float], Any]


class Search:
    """Searches the symbols of one picture, at one step D after the other."""

    def __init__(
        self,
        pixels: np.ndarray,
        step: float,
        *,
        weights: np.ndarray | None = None,
        seed: int = 0,
        implementation: Implementation | None = None,
        report: Report = lambda work, psnr: None,
    ):
        """Prepares the programs.

        Args:
          pixels: [H, W, C] float32 in 0..1.
          step: D, about; how many Gaussians there may be depends on it (`refine` makes
            room for more).
          weights: [H, W, 1] or [H, W, C] of the squared errors; 1 without.
          seed: of everything random.
          implementation: of `rasterize`.
          report: is told about progress.

        Methods that search raise FitDivergedError where the error is not finite.
        """
        self.image_size = pixels.shape[0], pixels.shape[1]
        self.mean = quantized_mean(pixels.mean(axis=(0, 1)))
        self._weights = None if weights is None else jnp.asarray(weights)
        self._full, self._half = (
            _make_level(pixels - self.mean, weights, factor) for factor in (1, 2)
        )
        self._settings = pixels.shape, implementation
        self._capacity = 0
        self._make_room(step)
        self._key = jax.random.key(seed)
        self._report = report

    def search(self, step: float, effort: Effort) -> Symbols:
        """Searches with all of an effort, or until that does not pay any more."""
        symbols = self.fit(step, effort.fit_steps)
        best = math.inf
        for _ in range(effort.rounds):
            symbols, objective = self.descend(symbols, step, effort.sweeps)
            if objective > (1 - _LEAST_GAIN) * best:
                break
            best = objective
            symbols = self.refine(symbols, step, step, effort.round_steps)
        return self.descend(symbols, step, effort.last_sweeps)[0]

    def fit(self, step: float, steps: int) -> Symbols:
        """Fits from nothing and rounds; `steps` of them at half the size."""
        gaussians = self._programs.start(self._next_key(), self._full.target)
        count = jnp.int32(num_started(self._capacity))
        gaussians = _scaled(gaussians, 0.5)
        schedule = fit_schedule(steps)
        state = self._fit(gaussians, count, self._half, step, schedule, steps)
        gaussians, count = _scaled(state.gaussians, 2.0), state.num_born
        steps = _FINISH_STEPS
        schedule = refine_schedule(steps, _FINISH_RATE, _FINISH_BIRTHS)
        state = self._fit(gaussians, count, self._full, step, schedule, steps)
        return self._settle(state, step)

    def refine(
        self, symbols: Symbols, old_step: float, step: float, steps: int
    ) -> Symbols:
        """Goes on from symbols as real numbers, with births, and rounds by `step`."""
        if more := self._make_room(step):
            symbols = jax.tree.map(
                lambda leaf: jnp.pad(leaf, [(0, more), *[(0, 0)] * (leaf.ndim - 1)]),
                symbols,
            )
        gaussians, count = self._programs.restore(symbols, jnp.float32(old_step))
        schedule = refine_schedule(steps)
        state = self._fit(gaussians, count, self._full, step, schedule, steps)
        return self._settle(state, step)

    def descend(
        self, symbols: Symbols, step: float, sweeps: int
    ) -> tuple[Symbols, float]:
        """Takes sweeps of discrete descent; returns |error|² + λ bits beside them."""
        objective = math.inf
        while sweeps > 0:
            count = min(sweeps, _SWEEPS_PER_ESTIMATE)
            rates = rate_tables(symbols, self.image_size)
            after = self._programs.descend(
                symbols,
                self._full.target,
                jnp.float32(step),
                rates,
                self._next_key(),
                count,
                self._weights,
            )
            symbols = after.symbols
            error = float(jnp.sum((self._full.mask * after.residual) ** 2))
            objective = error + TRADE_OFF * step**2 * float(after.bits)
            mean = error / float(self._full.weight)
            self._tell(_SWEEP_WORK * count, mean)
            sweeps -= count
        return symbols, objective

    def _make_room(self, step: float) -> int:
        """Prepares programs for all Gaussians of a step; returns how many are new."""
        shape, implementation = self._settings
        share = _PIXELS_PER_SLOT if step >= _FINE_STEP else _PIXELS_PER_FINE_SLOT
        area = math.prod(max(side, _LEAST_SIDE) for side in shape[:2])
        more = max(math.ceil(area / share) - self._capacity, 0)
        if more:
            self._capacity += more
            self._programs = _make_programs(shape, self._capacity, implementation)
        return more

    def _fit(self, gaussians, count, level, step, schedule, steps) -> FitState:
        state = self._programs.begin(gaussians, count, self._next_key())
        nothing = jnp.zeros(self._capacity, bool)
        while (done := int(state.step)) < steps:
            now = min(_STEPS_PER_LOOK, steps - done)
            state, error = self._programs.advance(
                state, level, level.scale * step, schedule, nothing, now
            )
            work = _half_work(now) if level is self._half else now
            self._tell(work, error)
        return state

    def _settle(self, state: FitState, step: float) -> Symbols:
        """Rounds some Gaussians after the other, and moves those that are left."""
        size = jnp.float32(step)
        rank = jax.random.uniform(self._next_key(), (self._capacity,))
        for part, share in enumerate(_HELD):
            held = rank < share
            state = self._programs.hold(state, size, held)
            schedule = settle_schedule(part / len(_HELD))
            state, error = self._programs.advance(
                state, self._full, size, schedule, held, _HELD_STEPS
            )
            self._tell(_HELD_STEPS, error)
        return self._programs.round(state, size)

    def _tell(self, work: int, error: Any) -> None:
        """Reports work and a mean squared error, which has to be finite."""
        if not math.isfinite(error := float(error)):
            raise FitDivergedError(
                f"the search diverged: its mean squared error is {error}; try another "
                "seed"
            )
        self._report(work, -10 * math.log10(max(error, 1e-12)))

    def _next_key(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key


class _Level(NamedTuple):
    """What a fit sees: the picture less its mean, or a smaller one in its corner."""

    target: jax.Array  # [H, W, C]
    mask: jax.Array  # [H, W, 1 or C] roots of weights; 0 where there is no picture
    weight: jax.Array  # of all pixels and channels together
    scale: jax.Array  # of the smaller picture


class _Programs(NamedTuple):
    """The jitted parts, one set for each size of picture."""

    start: Callable[..., Cholesky]  # (key, target)
    begin: Callable[..., FitState]  # (gaussians, num_born, key)
    advance: Callable[..., tuple[FitState, jax.Array]]
    hold: Callable[..., FitState]  # (state, D, which Gaussians to round)
    round: Callable[..., Symbols]  # (state, D)
    restore: Callable[..., tuple[Cholesky, jax.Array]]  # (symbols, D)
    descend: Callable[..., Descent]


@functools.lru_cache(maxsize=8)
def _make_programs(image_shape, capacity, implementation):
    image_size = image_shape[:2]
    quantizer = sensitivity_matched(image_size, 1.0)

    @jax.jit
    def start(key, target):
        return start_fit(key, target, capacity, implementation)

    @jax.jit
    def begin(gaussians, num_born, key):
        fit_step = make_rate_step(capacity, image_shape, 1.0, fit_schedule(1))
        return fit_step.init(gaussians, key, num_born)

    @jax.jit
    def advance(state, level, size, schedule: Schedule, held, steps):
        fit_step = make_rate_step(
            capacity,
            image_shape,
            size,
            schedule,
            scale=level.scale,
            mask=level.mask,
            trade_off=TRADE_OFF,
            implementation=implementation,
        )

        # Metrics are those of whole pictures: here the mean is missing.
        def body(_, carry):
            before = carry[0].gaussians
            state, _, residual = fit_step.advance(carry[0], level.target)
            after = where_rows(held, before, state.gaussians)
            state = fit_step.grow_if_due(state._replace(gaussians=after), residual)
            return state, jnp.sum((level.mask * residual) ** 2) / level.weight

        return jax.lax.fori_loop(0, steps, body, (state, jnp.float32(0)))

    @jax.jit
    def round_(state, size):
        symbols = quantizer.encode(SensitivityParams(size), (), state.gaussians)
        born = jnp.arange(capacity) < state.num_born
        return symbols._replace(colors=jnp.where(born[:, None], symbols.colors, 0))

    @jax.jit
    def hold(state, size, held):
        symbols = round_(state, size)
        rounded = quantizer.decode(SensitivityParams(size), (), symbols)
        used = jnp.any(symbols.colors != 0, axis=1, keepdims=True)
        rounded = rounded._replace(colors=jnp.where(used, rounded.colors, 0))
        gaussians = where_rows(held, rounded, state.gaussians)
        return begin(gaussians, state.num_born, state.key)

    @jax.jit
    def restore(symbols, size):
        used = jnp.any(symbols.colors != 0, axis=1)
        order = jnp.argsort(~used, stable=True)
        symbols = jax.tree.map(lambda leaf: leaf[order], symbols)
        gaussians = quantizer.decode(SensitivityParams(size), (), symbols)
        rest = unborn(capacity, symbols.colors.shape[1])
        count = jnp.sum(used, dtype=jnp.int32)
        return where_rows(jnp.arange(capacity) < count, gaussians, rest), count

    @jax.jit
    def descend_(symbols, target, size, rates, key, sweeps, weights):
        return descend(
            symbols,
            target,
            size,
            lambda candidates: symbol_bits(rates, candidates, image_size),
            key,
            sweeps=sweeps,
            trade_off=TRADE_OFF,
            weights=weights,
            implementation=implementation,
        )

    return _Programs(start, begin, advance, hold, round_, restore, descend_)


def _make_level(target: np.ndarray, weights: np.ndarray | None, factor: int) -> _Level:
    """Shrinks a picture and its weights into the corner of pictures of their size."""
    if weights is None:
        weights = np.ones((*target.shape[:2], 1), np.float32)
    mask = np.sqrt(_shrunk(weights, factor))
    small = jnp.asarray(_shrunk(target, factor))
    weight = jnp.float32(np.sum(mask**2) * target.shape[2] / mask.shape[2])
    return _Level(small, jnp.asarray(mask), weight, jnp.float32(1 / factor))


def _shrunk(picture: np.ndarray, factor: int) -> np.ndarray:
    """Returns means of factor × factor pixels, edges repeated, and 0 beside them."""
    sides = [-(-side // factor) for side in picture.shape[:2]]
    more = [(0, part * factor - side) for part, side in zip(sides, picture.shape)]
    whole = np.pad(picture, (*more, (0, 0)), mode="edge")
    small = whole.reshape(sides[0], factor, sides[1], factor, -1).mean(axis=(1, 3))
    rest = [(0, side - part) for part, side in zip(sides, picture.shape)]
    return np.pad(small, (*rest, (0, 0)))


def _half_work(steps: int) -> int:
    """Returns what steps at half the size take, in steps at full size."""
    return round(0.5 * steps)


def _scaled(gaussians, factor):
    return gaussians._replace(
        means=factor * gaussians.means, cholesky=factor * gaussians.cholesky
    )
