"""Presets: everything that a fit needs, as a function of its size and budget."""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gi_jax.fitting import optimizers
from gi_jax.fitting.densification import Densification, densify, unborn
from gi_jax.fitting.initialization import content, random
from gi_jax.gaussians import Gaussians

Preset = Literal["fast", "paper"]


class Recipe(NamedTuple):
    """How to fit one picture."""

    # (key, image, implementation) -> N Gaussians, the born ones first; in a fit with
    # weights it is given them as one more argument
    initialize: Callable[..., Gaussians]
    num_born: int  # Gaussians at the start
    steps: int  # optimizer steps; what initialization renders is taken off the budget
    optimizer: optax.GradientTransformation
    coordinates: optimizers.Coordinates
    densification: Densification | None
    clamp: bool = False  # the loss sees the picture clamped to 0..1
    render: Callable[..., jax.Array] | None = None  # see `make_fit_step`
    # of what a quantizer learns, see `make_fit_step`
    quantizer_optimizer: optax.GradientTransformation | None = None


def fast(num_gaussians: int, image_shape: tuple[int, int, int], steps: int) -> Recipe:
    """The default: steps in each Gaussian's own frame, and growth where it errs.

    All settings were found by measuring at 0.0076 to 0.178 Gaussians per pixel and 50
    to 2,000 steps; they are functions of ρ, pixels per Gaussian, and T, the budget.

    Args:
      num_gaussians: N.
      image_shape: H, W, C.
      steps: T, in renderings with their gradient, colour solving included.
    """
    height, width, channels = image_shape
    share = height * width / num_gaussians
    dense = share < 12
    tiny = steps < 20  # No time to grow, nor to solve for colours.
    color_steps = 0 if tiny else 2 if steps <= 50 else 3
    cost = color_steps + 2 if color_steps else 1
    updates = max(steps - cost, 0)

    num_born = num_gaussians
    births: dict[int, int] = {}
    moves: list[int] = []
    if not tiny:
        num_born = math.ceil(num_gaussians * (0.5 if steps <= 50 else 0.4))
        rounds = 2 if steps <= 50 else 3 if steps <= 100 else 5
        births = _births(num_gaussians - num_born, rounds, int(0.4 * updates))
        moves = [int(updates * (0.45 + 0.25 * i / 3)) for i in (1, 2, 3)]

    rate = max((0.9 if dense else 1.3) * (max(steps, 1) / 50) ** -0.33, 0.3)
    color_rate = 0.0075 * (share / 5.6) ** 0.22 * max(1, (200 / max(steps, 1)) ** 0.33)
    optimizer = optimizers.own_frame_adam(
        optimizers.Tangent(0.16 * rate, 0.13 * rate, color_rate),  # type: ignore[arg-type]
        optimizers.hold_then_decay(updates, hold=0.93 if steps <= 50 else 0.87),
        **_moment_decays(dense, steps),
    )

    def initialize(key, image, implementation, weights=None):
        born = content(
            key,
            image,
            num_born,
            edge_share=0.65 if dense else 0.9,
            color_steps=color_steps,
            implementation=implementation,
            weights=weights,
        )
        rest = unborn(num_gaussians - num_born, channels)
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), born, rest)

    return Recipe(
        initialize,
        num_born,
        updates,
        optimizer,
        optimizers.own_frame(),
        densify(births, moves) if births or moves else None,
    )


def paper(num_gaussians: int, image_shape: tuple[int, int, int], steps: int) -> Recipe:
    """The paper's: random start, Adan at 1e-3, halved every 20,000 steps.

    As in its release, the picture is clamped before the loss, which lets pixels that
    overshoot go at first: the early steps are faster, the late ones are not.

    Reference:
      GaussianImage, arXiv:2403.08551, section 4.1.
    """

    def initialize(key, image, implementation, weights=None):
        del implementation, weights
        return random(key, num_gaussians, image.shape[:2], image.shape[2])

    rate = optax.exponential_decay(1e-3, 20_000, 0.5, staircase=True)
    return Recipe(
        initialize,
        num_gaussians,
        steps,
        optimizers.adan(rate),
        optimizers.parameters(),
        densification=None,
        clamp=True,
    )


@functools.cache
def fine_tuning(steps: int, rate: float = 0.3) -> Recipe:
    """Steps from a fit that is done, for a quantizer: small ones, without growth.

    Args:
      steps: T.
      rate: relative to the rates of a fit.
    """
    optimizer = optimizers.own_frame_adam(
        optimizers.Tangent(0.16 * rate, 0.13 * rate, 0.0075 * rate),  # type: ignore[arg-type]
        optimizers.hold_then_decay(steps, hold=0.5),
        b1=0.9,
        b2=0.99,
    )

    def initialize(key, image, implementation):
        raise ValueError(
            "initial: expected Gaussians to start from, since the recipe fine_tuning "
            "has no start of its own; got None"
        )

    return Recipe(initialize, 0, steps, optimizer, optimizers.own_frame(), None)


def _births(count: int, rounds: int, last_step: int) -> dict[int, int]:
    """Spreads `count` births over `rounds` steps up to `last_step`."""
    births: dict[int, int] = {}
    for i in range(rounds):
        step = max(2, last_step * (i + 1) // rounds)
        part = count * (i + 1) // rounds - count * i // rounds
        births[step] = births.get(step, 0) + part
    return {step: part for step, part in births.items() if part}


def _moment_decays(dense: bool, steps: int) -> dict[str, float]:
    """Adam's decays: with exact gradients a short memory wins."""
    if steps <= 50 and not dense:
        b1, b2 = 0.75, 0.9
    elif steps < 200:
        b1, b2 = 0.8, 0.9
    elif steps < 400 or not (dense or steps > 1000):
        b1, b2 = 0.85, 0.9
    else:
        b1, b2 = 0.9, 0.95
    return {"b1": b1, "b2": b2}


PRESETS: dict[str, Callable[[int, tuple[int, int, int], int], Recipe]] = {
    "fast": fast,
    "paper": paper,
}
