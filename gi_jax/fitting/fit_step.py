"""One step of a fit: a pure function of state and target, for jit, scan and vmap."""

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gi_jax.fitting.densification import Densification
from gi_jax.fitting.losses import LOSSES, get_loss, l2, weighted
from gi_jax.fitting.optax_support import make_stepper
from gi_jax.fitting.optimizers import Coordinates, own_frame
from gi_jax.fitting.rate import RateTerm
from gi_jax.gaussians import Gaussians, where_rows
from gi_jax.metrics import psnr, round_to_8_bits
from gi_jax.rendering.rasterize import Implementation, rasterize

if TYPE_CHECKING:  # Fitting does not depend on coding, but for this type.
    from gi_jax.coding.quantization import Quantizer

# Rate of what a quantizer learns by gradient, relative to its `scales`: measured with
# `uniform` of 5 to 12 bits and the paper's quantizer, 30 to 300 steps; 0.3 to 1 are
# alike, 0.1 is up to 0.9 dB worse.
_QUANTIZER_RATE = 0.5


# (gaussians, image_size) -> picture [H, W, C], differentiable
Render = Callable[[Any, tuple[int, int]], jax.Array]


class QuantizerState(NamedTuple):
    """What quantization-aware steps carry along."""

    params: Any  # learned by gradient
    state: Any  # anything else, such as codebooks
    optimizer_state: Any


class FitState(NamedTuple):
    """Everything a fit carries from step to step, a pytree."""

    step: jax.Array  # [] int32 steps done
    gaussians: Gaussians  # N, the born ones first
    num_born: jax.Array  # [] int32
    optimizer_state: Any
    quantizer: QuantizerState | None
    key: jax.Array  # [] PRNG key


class Metrics(NamedTuple):
    """What a step tells of the picture it started from."""

    loss: jax.Array  # []
    psnr: jax.Array  # [] dB, of the picture rounded to 8 bits
    finite: jax.Array  # [] bool: loss and all new parameters are finite


@dataclasses.dataclass(frozen=True, eq=False)
class FitStep:
    """A step and the state it starts from; call it, and jit it, like a function.

    A call is `advance`, and `grow` after the steps of the densification. A loop that
    knows those steps may call the two itself: then its program has no conditional, for
    which a GPU waits for the host.
    """

    init: Callable[..., FitState]  # (gaussians, key, num_born=None) -> state

    # (state, target, weights=None) -> (state, metrics, residual): a step without
    # births. The residual [H, W, C] is the target less the picture that the step
    # started from, times √(weights / the largest weight).
    advance: Callable[..., tuple[FitState, Metrics, jax.Array]]

    # (state, residual) -> state: the births and moves due after `state.step` steps.
    grow: Callable[[FitState, jax.Array], FitState]
    densification: Densification | None

    def __call__(
        self, state: FitState, target: jax.Array, weights: jax.Array | None = None
    ) -> tuple[FitState, Metrics]:
        """Returns the state after one step towards `target`, and metrics.

        Args:
          state: of N Gaussians.
          target: [H, W, C] in 0..1.
          weights: [H, W, C] or [H, W, 1] of squared errors, 0 or more and not all 0;
            where one is 0 the target must be finite all the same.
        """
        state, metrics, residual = self.advance(state, target, weights)
        return self.grow_if_due(state, residual), metrics

    def grow_if_due(self, state: FitState, residual: jax.Array) -> FitState:
        """Returns the state after births and moves, if any are due after its steps."""
        if self.densification is None:
            return state
        due = self.densification.due(state.step)
        return jax.lax.cond(due, self.grow, lambda s, _: s, state, residual)


def _interned(make: Callable[..., FitStep]) -> Callable[..., FitStep]:
    """Makes equal settings give the same step for as long as one of them lives.

    jax.jit knows a function that it has compiled by its identity, so that a step made
    anew in each round of a loop would be compiled in each round. Steps whose settings
    are names alone are few and live on; others would keep what they close over.
    """
    living: weakref.WeakValueDictionary[Any, FitStep] = weakref.WeakValueDictionary()
    kept: list[FitStep] = []

    @functools.wraps(make)
    def interned(**settings):
        given = {k: v for k, v in settings.items() if v is not None}
        key = tuple(sorted(given.items(), key=lambda item: item[0]))
        try:
            step = living.get(key)
        except TypeError:  # A setting that has no hash.
            return make(**settings)
        if step is None:
            step = living[key] = make(**settings)
            named = {*LOSSES.values()}
            if all(isinstance(v, str) or v in named for v in given.values()):
                kept.append(step)
        return step

    return interned


@_interned
def make_fit_step(
    *,
    loss: str | Callable[[jax.Array, jax.Array], jax.Array] = l2,
    optimizer: optax.GradientTransformation | None = None,
    coordinates: Coordinates | None = None,
    densification: Densification | None = None,
    quantizer: "Quantizer | None" = None,
    quantizer_optimizer: optax.GradientTransformation | None = None,
    rate: RateTerm | None = None,
    render: Render | None = None,
    implementation: Implementation | None = None,
) -> FitStep:
    """Builds a pure step `(state, target) -> (state, metrics)`.

    The step renders the Gaussians (quantized, where there is a quantizer), pulls the
    gradient of the loss back into the coordinates, lets the optimizer turn it into an
    update there, and retracts. Masks and labels of the optimizer are shaped as the
    Gaussians, or as the coordinates' tangents; rates for each field are

        optax.partition(
            {"place": optax.adam(0.05), "paint": optax.adam(0.01)},
            gi.Cholesky(means="place", cholesky="place", colors="paint"),
        )

    or `own_frame_adam(Tangent(means=0.07, shape=0.055, colors=0.0075))`.

    In `own_frame` Gaussians always lie at 0. An optimizer that asks for parameters, as
    `optax.lbfgs` and those with weight decay do, is given the sum of its updates since
    the first state: decay pulls towards 0, which is where the fit began, and
    differences of gradients are taken between the frames of two steps. Its line search
    tries the very Gaussians that a step leads to, guards included.

    Args:
      loss: (picture, target) -> scalar, both [H, W, C], or the name of one (`LOSSES`).
        Where a step has weights, see `losses.weighted` for what it is given.
      optimizer: any optax transformation, of the coordinates' tangents; by default that
        of the coordinates. It is given the extra arguments value, grad and value_fn of
        optax's line searches, grad_fn of `contrib.sam` and obj_fn of `contrib.sophia`.
        Those that average steps, such as `contrib.schedule_free`, leave the Gaussians
        at the point where gradients are taken, not at the average.
      coordinates: where the optimizer steps; each Gaussian's own frame by default.
      densification: births and moves; none by default.
      quantizer: makes the fit aware of quantization: the loss sees quantized Gaussians,
        and what the quantizer learns is learned along.
      quantizer_optimizer: optax transformation of what the quantizer learns, in units
        of its `scales`; `optax.adam(0.5)` by default.
      rate: a term to be added to the loss, such as `energy_rate`.
      render: draws the picture instead of `rasterize`. Gaussians may then be a
        NamedTuple of other fields, each with N rows, `means` among them; coordinates
        and optimizer must know them (`parameters` and any optax transformation do).
      implementation: of `rasterize`.

    Returns:
      The step. `step.init(gaussians, key)` gives the first state;
      `step(state, target)` takes the target [H, W, C] in 0..1. Equal settings give the
      same step while it is in use, so that jax.jit does not compile it again.

    Raises:
      ValueError: on a loss that has no such name, or coordinates without an optimizer.
        `step.init` raises it for an optimizer that cannot step in the coordinates.
    """
    loss_function = weighted(get_loss(loss) if isinstance(loss, str) else loss)
    coordinates = coordinates or own_frame()
    if optimizer is None:
        if coordinates.default_optimizer is None:
            raise ValueError(
                "optimizer: expected one, since these coordinates have no default"
            )
        optimizer = coordinates.default_optimizer()
    stepper = make_stepper(optimizer, coordinates)
    render = render or functools.partial(rasterize, implementation=implementation)
    learner = optax.with_extra_args_support(
        quantizer_optimizer or optax.adam(_QUANTIZER_RATE)
    )

    def init(gaussians, key, num_born=None):
        key, for_quantizer = jax.random.split(key)
        gaussians = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gaussians)
        total = gaussians.means.shape[0]
        quantizing = None
        if quantizer is not None:
            params, state = quantizer.init(for_quantizer, gaussians)
            quantizing = QuantizerState(params, state, learner.init(params))
        state = FitState(
            step=jnp.zeros([], jnp.int32),
            gaussians=gaussians,
            num_born=jnp.asarray(total if num_born is None else num_born, jnp.int32),
            optimizer_state=stepper.init(gaussians),
            quantizer=quantizing,
            key=key,
        )
        # The state may be donated, but not the caller's arrays, nor the optimizer's.
        return jax.tree.map(jnp.copy, state)

    def render_loss(gaussians, params, state, target, weights, key, step):
        extra = jnp.zeros([], jnp.float32)
        if rate is not None:
            extra += rate(gaussians, step, target.shape)
        if quantizer is not None:
            gaussians, state, aux = quantizer.apply(params, state, gaussians, key)
            extra += aux
        picture = render(gaussians, target.shape[:2])
        return loss_function(picture, target, weights) + extra, (picture, state)

    def advance(state, target, weights=None):
        size = target.shape[:2]
        quantizing = state.quantizer or QuantizerState((), (), ())
        key, for_quantizer = jax.random.split(state.key)
        fixed = quantizing.state, target, weights, for_quantizer, state.step
        (value, (picture, quantizer_state)), gradients = jax.value_and_grad(
            render_loss, argnums=(0, 1), has_aux=True
        )(state.gaussians, quantizing.params, *fixed)

        born = jnp.arange(state.gaussians.means.shape[0]) < state.num_born

        def value_of(moved):
            gaussians = where_rows(born, moved, state.gaussians)
            return render_loss(gaussians, quantizing.params, *fixed)[0]

        tangent = coordinates.pull_back(state.gaussians, gradients[0], size)
        moved, optimizer_state = stepper.step(
            state.optimizer_state, state.gaussians, tangent, size, value, value_of
        )
        gaussians = where_rows(born, moved, state.gaussians)

        if quantizer is not None:
            scales = quantizer.scales(quantizing.params)
            update, learner_state = learner.update(
                jax.tree.map(jnp.multiply, gradients[1], scales),
                quantizing.optimizer_state,
                jax.tree.map(jnp.divide, quantizing.params, scales),
            )
            update = jax.tree.map(jnp.multiply, update, scales)
            params = optax.apply_updates(quantizing.params, update)
            quantizing = QuantizerState(params, quantizer_state, learner_state)

        finite = jnp.isfinite(value)
        for leaf in jax.tree.leaves((gaussians, quantizing.params)):
            finite &= jnp.all(jnp.isfinite(leaf))
        state = FitState(
            state.step + 1,
            gaussians,
            state.num_born,
            optimizer_state,
            quantizing if quantizer is not None else None,
            key,
        )
        quality = psnr(round_to_8_bits(picture), target, weights)
        residual = target - picture
        if weights is not None:
            residual *= jnp.sqrt(weights / jnp.max(weights))
        return _unshared(state), Metrics(value, quality, finite), residual

    def grow(state, residual):
        if densification is None:
            return state
        key, for_growth = jax.random.split(state.key)
        gaussians, num_born, placed = densification.apply(
            for_growth, state.step, state.gaussians, state.num_born, residual
        )
        return state._replace(
            gaussians=gaussians,
            num_born=num_born.astype(jnp.int32),
            optimizer_state=stepper.restart(state.optimizer_state, gaussians, placed),
            key=key,
        )

    return FitStep(init, advance, grow, densification)


def _unshared(state: FitState) -> FitState:
    """Copies arrays that are two leaves of a state, so that it can be donated.

    An optimizer may keep the gradient, or what it had before, in two of its leaves.
    """
    seen: set[int] = set()

    def copied(leaf):
        if id(leaf) in seen:
            return jnp.copy(leaf)
        seen.add(id(leaf))
        return leaf

    return jax.tree.map(copied, state)
