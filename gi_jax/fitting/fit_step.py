"""One step of a fit: a pure function of state and target, for jit, scan and vmap."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gi_jax.fitting.densification import Densification
from gi_jax.fitting.losses import l2, weighted
from gi_jax.fitting.optimizers import Coordinates, Tangent, own_frame, own_frame_adam
from gi_jax.fitting.rate import RateTerm
from gi_jax.gaussians import Gaussians, where_rows
from gi_jax.metrics import psnr, round_to_8_bits
from gi_jax.rendering.rasterize import Implementation, rasterize

if TYPE_CHECKING:  # Fitting does not depend on coding, but for this type.
    from gi_jax.coding.quantization import Quantizer

# Rates of the default optimizer, those of a fit of about 500 steps.
_DEFAULT_RATES = Tangent(0.07, 0.055, 0.0075)  # type: ignore[arg-type]

# Rate of what a quantizer learns by gradient: ten times the paper's, for a hundredth of
# its steps.
_QUANTIZER_RATE = 1e-2


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
    # births. The residual [H, W, C] is that of the picture it started from, smaller
    # where weights are.
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


def make_fit_step(
    *,
    loss: Callable[[jax.Array, jax.Array], jax.Array] = l2,
    optimizer: optax.GradientTransformation | None = None,
    coordinates: Coordinates | None = None,
    densification: Densification | None = None,
    quantizer: "Quantizer | None" = None,
    rate: RateTerm | None = None,
    render: Render | None = None,
    implementation: Implementation | None = None,
) -> FitStep:
    """Builds a pure step `(state, target) -> (state, metrics)`.

    The step renders the Gaussians (quantized, where there is a quantizer), pulls the
    gradient of the loss back into the coordinates, lets the optimizer turn it into an
    update there, and retracts.

    Args:
      loss: (picture, target) -> scalar, both [H, W, C]. Where a step has weights, see
        `losses.weighted` for what it is given.
      optimizer: any optax transformation, of the coordinates' tangents.
      coordinates: where the optimizer steps; each Gaussian's own frame by default.
      densification: births and moves; none by default.
      quantizer: makes the fit aware of quantization: the loss sees quantized Gaussians,
        and what the quantizer learns is learned along.
      rate: a term to be added to the loss, such as `energy_rate`.
      render: draws the picture instead of `rasterize`. Gaussians may then be a
        NamedTuple of other fields, each with N rows, `means` among them; coordinates
        and optimizer must know them (`parameters` and any optax transformation do).
      implementation: of `rasterize`.

    Returns:
      The step. `step.init(gaussians, key)` gives the first state;
      `step(state, target)` takes the target [H, W, C] in 0..1.
    """
    coordinates = coordinates or own_frame()
    optimizer = optimizer or own_frame_adam(_DEFAULT_RATES)
    render = render or functools.partial(rasterize, implementation=implementation)
    quantizer_optimizer = optax.adam(_QUANTIZER_RATE)

    def init(gaussians, key, num_born=None):
        key, for_quantizer = jax.random.split(key)
        gaussians = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gaussians)
        total = gaussians.means.shape[0]
        quantizing = None
        if quantizer is not None:
            params, state = quantizer.init(for_quantizer, gaussians)
            quantizing = QuantizerState(params, state, quantizer_optimizer.init(params))
        return FitState(
            step=jnp.zeros([], jnp.int32),
            gaussians=gaussians,
            num_born=jnp.asarray(total if num_born is None else num_born, jnp.int32),
            optimizer_state=optimizer.init(coordinates.locate(gaussians)),
            quantizer=quantizing,
            key=key,
        )

    def render_loss(gaussians, params, state, target, weights, key, step):
        extra = jnp.zeros([], jnp.float32)
        if rate is not None:
            extra += rate(gaussians, step, target.shape)
        if quantizer is not None:
            gaussians, state, aux = quantizer.apply(params, state, gaussians, key)
            extra += aux
        picture = render(gaussians, target.shape[:2])
        return weighted(loss)(picture, target, weights) + extra, (picture, state)

    def advance(state, target, weights=None):
        size = target.shape[:2]
        quantizing = state.quantizer or QuantizerState((), (), ())
        key, for_quantizer = jax.random.split(state.key)
        (value, (picture, quantizer_state)), gradients = jax.value_and_grad(
            render_loss, argnums=(0, 1), has_aux=True
        )(
            state.gaussians,
            quantizing.params,
            quantizing.state,
            target,
            weights,
            for_quantizer,
            state.step,
        )

        tangent = coordinates.pull_back(state.gaussians, gradients[0], size)
        update, optimizer_state = optimizer.update(
            tangent, state.optimizer_state, coordinates.locate(state.gaussians)
        )
        moved = coordinates.retract(state.gaussians, update, size)
        born = jnp.arange(moved.means.shape[0]) < state.num_born
        gaussians = where_rows(born, moved, state.gaussians)

        if quantizer is not None:
            update, quantizer_optimizer_state = quantizer_optimizer.update(
                gradients[1], quantizing.optimizer_state
            )
            params = optax.apply_updates(quantizing.params, update)
            quantizing = QuantizerState(
                params, quantizer_state, quantizer_optimizer_state
            )

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
        return state, Metrics(value, quality, finite), residual

    def grow(state, residual):
        if densification is None:
            return state
        key, for_growth = jax.random.split(state.key)
        gaussians, num_born, placed = densification.apply(
            for_growth, state.step, state.gaussians, state.num_born, residual
        )
        fresh = optimizer.init(coordinates.locate(gaussians))
        return state._replace(
            gaussians=gaussians,
            num_born=num_born,
            optimizer_state=where_rows(placed, fresh, state.optimizer_state),
            key=key,
        )

    return FitStep(init, advance, grow, densification)
