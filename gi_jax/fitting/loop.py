"""The loop of a fit: jitted chunks of steps, and what happens between them.

Python looks at a fit only between chunks: for progress, checkpoints, divergence, and
for births, which are programs of their own. So a chunk is steps alone, and a GPU works
through it without waiting for the host.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from gi_jax.fitting.fit_step import FitState, FitStep, Metrics, make_fit_step
from gi_jax.fitting.losses import clamped
from gi_jax.fitting.presets import Recipe
from gi_jax.rendering.rasterize import Implementation
from gi_jax.rendering.triton_call import default_platform

if TYPE_CHECKING:  # Fitting does not depend on coding, but for this type.
    from gi_jax.coding.quantization import Quantizer

# A chunk of steps runs without a look from Python: at most so many, and about so long.
_MAX_CHUNK: Final = 256
_CHUNK_SECONDS: Final = 0.5

# Steps between two looks of a running chunk at whether to go on, where a GPU would wait
# for the host, who takes that look.
_STEPS_PER_LOOK: Final = 16

# No picture has this PSNR, not even one without an error.
NO_GOAL: Final = math.nan


class Programs(NamedTuple):
    """The jitted parts of a fit, shared by all fits with the same settings."""

    start: Callable[..., FitState]  # (key, target, initial, weights=None) -> state

    # (state, target, count, goal, weights=None) -> state, metrics of pictures looked at
    # [_MAX_CHUNK], how many, residual of the last one
    run: Callable[..., tuple[FitState, Metrics, jax.Array, jax.Array]]

    grow: Callable[[FitState, jax.Array], FitState]  # (state, residual) -> state
    growth_steps: frozenset[int]  # after which `grow` is due


@functools.lru_cache(maxsize=32)
def make_programs(
    recipe: Recipe,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    quantizer: "Quantizer | None" = None,
    implementation: Implementation | None = None,
    has_initial: bool = False,
) -> Programs:
    """Returns the programs of fits of single pictures."""
    start, run, grow, growth_steps = _functions(
        recipe, loss, quantizer, implementation, has_initial
    )
    return Programs(
        jax.jit(start),
        jax.jit(run, donate_argnums=0),
        jax.jit(grow, donate_argnums=0),
        growth_steps,
    )


@functools.lru_cache(maxsize=32)
def make_batch_programs(
    recipe: Recipe,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    implementation: Implementation | None,
    devices: tuple[jax.Device, ...],
) -> Programs:
    """Returns the programs of fits of a batch, [B, ...] arrays spread over devices.

    B is a multiple of the number of devices. Nothing is exchanged between them. `start`
    takes (keys, targets, weights).
    """
    start, run, grow, growth_steps = _functions(
        recipe, loss, None, implementation, has_initial=False
    )
    mesh = Mesh(np.array(devices), ("batch",))
    each, all_ = PartitionSpec("batch"), PartitionSpec()

    def spread(function, in_specs):
        axes = [0 if spec == each else None for spec in in_specs]
        mapped = jax.vmap(function, in_axes=axes)
        return jax.shard_map(
            mapped, mesh=mesh, in_specs=in_specs, out_specs=each, check_vma=False
        )

    def start_own(key, target, weights):
        return start(key, target, None, weights)

    return Programs(
        jax.jit(spread(start_own, (each, each, each))),
        jax.jit(spread(run, (each, each, all_, all_, each)), donate_argnums=0),
        jax.jit(spread(grow, (each, each)), donate_argnums=0),
        growth_steps,
    )


def run_chunks(
    programs: Programs,
    state: FitState,
    target: jax.Array,
    steps: int,
    goal: float = NO_GOAL,
    weights: jax.Array | None = None,
) -> Iterator[tuple[int, FitState, Metrics]]:
    """Runs chunks of steps; yields the first step, the state after, and metrics.

    Ends after `steps` steps or when a picture reached `goal`, in dB. Leading axes of a
    batch are kept; metrics are [..., steps of the chunk].
    """
    chunk = 1 if default_platform() == "cpu" else _STEPS_PER_LOOK
    while (done := _number(state.step)) < steps:
        start = time.perf_counter()
        next_growth = min((s for s in programs.growth_steps if s > done), default=steps)
        count = min(chunk, next_growth - done, steps - done)
        state, metrics, looked, residual = programs.run(
            state, target, count, goal, weights
        )
        metrics, looked = jax.device_get((metrics, looked))
        metrics = Metrics(*(leaf[..., : np.max(looked)] for leaf in metrics))
        reached = np.any(metrics.psnr[..., -1] >= goal)
        if not reached and _number(state.step) in programs.growth_steps:
            state = programs.grow(state, residual)
        seconds = time.perf_counter() - start
        yield done, state, metrics
        if reached:
            return
        if seconds < _CHUNK_SECONDS / 2:
            chunk = min(2 * chunk, _MAX_CHUNK)
        elif seconds > 2 * _CHUNK_SECONDS:
            chunk = max(chunk // 2, 1)


def quality(
    programs: Programs,
    state: FitState,
    target: jax.Array,
    weights: jax.Array | None = None,
) -> np.ndarray:
    """Returns the PSNR in dB of the 8-bit picture; `state` is used up."""
    # One step more tells of the picture before it: a program for its rendering alone
    # would have to be compiled.
    return np.asarray(programs.run(state, target, 1, NO_GOAL, weights)[1].psnr[..., 0])


def _functions(recipe, loss, quantizer, implementation, has_initial):
    """Returns start, run, grow and the steps after which grow is due."""
    fit_step = make_fit_step(
        loss=clamped(loss) if recipe.clamp else loss,
        optimizer=recipe.optimizer,
        coordinates=recipe.coordinates,
        densification=None if has_initial else recipe.densification,
        quantizer=quantizer,
        quantizer_optimizer=recipe.quantizer_optimizer,
        render=recipe.render,
        implementation=implementation,
    )

    def start(key, target, initial, weights=None):
        if initial is not None:
            return fit_step.init(initial, key)
        key, for_start = jax.random.split(key)
        given = () if weights is None else (weights,)
        gaussians = recipe.initialize(for_start, target, implementation, *given)
        return fit_step.init(gaussians, key, recipe.num_born)

    densification = fit_step.densification
    growth_steps = frozenset() if densification is None else densification.steps
    if growth_steps is None:
        raise ValueError("recipe: expected a densification with known steps")
    run = functools.partial(_run, fit_step)
    return start, run, fit_step.grow, growth_steps


def _run(fit_step: FitStep, state, target, count, goal, weights=None):
    """Takes up to `count` steps; stops before the one whose picture reaches `goal`.

    The number of steps is a traced argument, so that one program runs chunks of any
    length, and where chunks end does not change a bit.
    """

    def step(carry):
        state, log, looked, stop, residual = carry
        new, metrics, new_residual = fit_step.advance(state, target, weights)
        row = jnp.where(stop, _MAX_CHUNK, looked)
        log = jax.tree.map(
            lambda rows, value: rows.at[row].set(value, mode="drop"), log, metrics
        )
        looked = jnp.where(stop, looked, looked + 1)
        stay = stop | (metrics.psnr >= goal)
        state, residual = jax.tree.map(
            lambda old, new: jnp.where(stay, old, new),
            (state, residual),
            (new, new_residual),
        )
        return state, log, looked, stay | ~metrics.finite, residual

    def several_steps(carry):
        carry, _ = jax.lax.scan(
            lambda carry, _: (step(carry), None), carry, length=_STEPS_PER_LOOK
        )
        return carry

    def room_for(number):
        return lambda carry: ~carry[3] & (carry[2] + number <= count)

    one = jax.eval_shape(fit_step.advance, state, target, weights)[1]
    log = jax.tree.map(lambda leaf: jnp.zeros(_MAX_CHUNK, leaf.dtype), one)
    looked, stop = jnp.zeros([], jnp.int32), jnp.zeros([], bool)
    carry = state, log, looked, stop, jnp.zeros_like(target)
    if default_platform() != "cpu":
        carry = jax.lax.while_loop(room_for(_STEPS_PER_LOOK), several_steps, carry)
    state, log, looked, _, residual = jax.lax.while_loop(room_for(1), step, carry)
    return state, log, looked, residual


def _number(steps: jax.Array) -> int:
    """Returns the number of steps done, in a batch that of the furthest."""
    return int(np.max(jax.device_get(steps)))
