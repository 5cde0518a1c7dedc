"""Fits that minimize |error|² + λ bits: few Gaussians at first, more where they pay.

Everything that differs from fit to fit is an array, so that one compiled program runs
them all: the first fit, and refinements of what came out of it, at any step D.
"""

import math
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gi_jax.arguments import check_integer
from gi_jax.fitting.densification import unborn
from gi_jax.fitting.fit_step import FitStep, make_fit_step
from gi_jax.fitting.initialization import content
from gi_jax.fitting.optimizers import Tangent, own_frame, own_frame_adam
from gi_jax.fitting.pursuit import pursue
from gi_jax.fitting.rate import TRADE_OFF, energy_rate
from gi_jax.gaussians import Cholesky
from gi_jax.rendering.rasterize import Implementation

# The longest fit, and the most events of pursuit in it.
MAX_STEPS: Final = 1024
MAX_EVENTS: Final = 64

# Adam's decays: with exact gradients a short memory wins.
_DECAYS: Final = {"b1": 0.85, "b2": 0.9}

# Rates of means, shapes and colours relative to the schedule. Those of colours grow
# with ρ, pixels per Gaussian, as in the preset 'fast'.
_MEANS_RATE: Final = 0.16
_SHAPE_RATE: Final = 0.13
_COLOR_RATE: Final = 0.03
_COLOR_SHARE: Final = 40.0

# Bound of √trace Σ, pixels. Wider ones are better done by several: 200 costs 3 % of the
# objective on whole pictures, 20 costs 6 %, 34 and 60 are alike.
_MAX_SPREAD: Final = 40.0

# Share of the capacity that the first fit starts with, and that one event may add. With
# less than that, files of much detail lack Gaussians: up to 4 % of the objective.
_FIRST_SHARE: Final = 0.05
_EVENT_SHARE: Final = 0.06

# Shares of the steps: between two events; until the last one; until the full λ; before
# Gaussians are pruned; until the rates fall.
_EVERY: Final = 0.025
_UNTIL: Final = 0.75
_RAMP: Final = 0.4
_PRUNE_FROM: Final = 0.15
_HOLD: Final = 0.87
_LAST_RATE: Final = 0.05

# Relative learning rate of Gaussians that have been rounded before: larger steps lose
# more than they find. And what is left of it when nearly all are held.
_REFINE_RATE: Final = 0.15
_SETTLED_RATE: Final = 0.33


class Schedule(NamedTuple):
    """What happens when in a fit."""

    rates: np.ndarray  # [MAX_STEPS] relative learning rate of each step
    events: np.ndarray  # [MAX_EVENTS] steps after which there is pursuit; padded by 0
    ramp: np.int32  # steps until λ has its full value
    prune_from: np.int32  # first step after which Gaussians are pruned


def fit_schedule(steps: int) -> Schedule:
    """The schedule of a first fit.

    Args:
      steps: of the fit, 0 to MAX_STEPS.

    Raises:
      ValueError: on more steps, which a schedule has no rates for.
    """
    check_integer("steps", steps, 0, MAX_STEPS)
    rate = max(0.9 * (max(steps, 1) / 50) ** -0.33, 0.3)
    count = round(_UNTIL / _EVERY)
    events = [max(1, round(steps * _EVERY * (i + 1))) for i in range(count)]
    return _schedule(
        steps, rate, _HOLD, events, int(_RAMP * steps), int(_PRUNE_FROM * steps)
    )


def refine_schedule(
    steps: int, rate: float = _REFINE_RATE, births: int = 3
) -> Schedule:
    """The schedule of a fit that starts from another: smaller steps, some births.

    Args:
      steps: of the fit, 0 to MAX_STEPS.
      rate: relative to the rates of a first fit.
      births: events of pursuit, in the first half.

    Raises:
      ValueError: on more steps, which a schedule has no rates for.
    """
    check_integer("steps", steps, 0, MAX_STEPS)
    events = [1 + i * steps // (2 * births) for i in range(births)]
    return _schedule(steps, rate, 0.5, events, 0, 0)


def settle_schedule(done: float) -> Schedule:
    """The schedule while part of the Gaussians is held: no births, smaller steps still.

    Args:
      done: 0 for the first part that is held, up to 1.
    """
    rate = _REFINE_RATE * _SETTLED_RATE**done
    return _schedule(MAX_STEPS, rate, 1.0, [], 0, MAX_STEPS)


def start_fit(
    key: jax.Array,
    target: jax.Array,
    capacity: int,
    implementation: Implementation | None = None,
) -> Cholesky:
    """Returns the Gaussians that a first fit starts from, and those unborn after them.

    Args:
      key: a PRNG key.
      target: [H, W, C] picture less its mean.
      capacity: N, static.
      implementation: of `rasterize`.

    Returns:
      `capacity` Gaussians, of which the first `num_started(capacity)` are born.
    """
    count = num_started(capacity)
    born = content(key, target, count, edge_share=0.9, implementation=implementation)
    rest = unborn(capacity - count, target.shape[2])
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), born, rest)


def num_started(capacity: int) -> int:
    """Returns how many Gaussians a first fit starts with."""
    return math.ceil(_FIRST_SHARE * capacity)


def make_rate_step(
    capacity: int,
    image_shape: tuple[int, ...],
    step_size: ArrayLike,
    schedule: Schedule,
    *,
    scale: ArrayLike = 1.0,
    mask: ArrayLike = 1.0,
    trade_off: float = TRADE_OFF,
    implementation: Implementation | None = None,
) -> FitStep:
    """Returns the step of a fit that lowers |error|² + λ R.

    Args:
      capacity: N, static.
      image_shape: H, W, C of the target, which is the picture less its mean.
      step_size: D; may be traced, as may the schedule.
      schedule: what happens when.
      scale: of the target, where it is a picture shrunk by that factor, and D with it.
      mask: [H, W, 1] or [H, W, C] that errors are times: roots of their weights.
      trade_off: λ / D², static.
      implementation: of `rasterize`.
    """
    share = image_shape[0] * image_shape[1] / capacity
    color_rate = scale * _COLOR_RATE * (share / _COLOR_SHARE) ** 0.22
    rates = Tangent(_MEANS_RATE, _SHAPE_RATE, color_rate)  # type: ignore[arg-type]
    return make_fit_step(
        loss=lambda picture, target: jnp.mean((mask * (picture - target)) ** 2),
        optimizer=own_frame_adam(
            rates, lambda count: jnp.asarray(schedule.rates)[count], **_DECAYS
        ),
        coordinates=own_frame(max_spread=scale * _MAX_SPREAD),
        densification=pursue(
            schedule.events,
            step_size=step_size,
            most=max(16, int(_EVENT_SHARE * capacity)),
            prune_from=schedule.prune_from,
            mask=mask,
            trade_off=trade_off,
            implementation=implementation,
        ),
        rate=energy_rate(step_size, trade_off=trade_off, ramp_steps=schedule.ramp),
        implementation=implementation,
    )


def _schedule(steps, rate, hold, events, ramp, prune_from) -> Schedule:
    done = (np.arange(MAX_STEPS) + 1) / max(steps, 1)
    falling = np.clip((done - hold) / max(1 - hold, 1e-6), 0, 1)
    padded = np.zeros(MAX_EVENTS, np.int32)
    padded[: len(events)] = events
    return Schedule(
        (rate * _LAST_RATE**falling).astype(np.float32),
        padded,
        np.int32(ramp),
        np.int32(prune_from),
    )
