"""Runs any optax transformation on Gaussians, in the coordinates of a fit.

optax has three protocols beside `update(updates, state, params)`, and trees of masks
and labels that must look like the parameters. What a transformation asks for is found
by tracing it, once for each shape of its input:

* Extra arguments: the loss, its gradient and the loss as a function of the parameters
  (line searches), a function for gradients elsewhere (`contrib.sam`), or an objective
  (`contrib.sophia`).
* The parameters themselves. Coordinates whose frame moves along with the Gaussians have
  none: there the position is the sum of the updates so far, 0 at first, and is kept
  only for transformations that ask for it.
* Masks and labels shaped as the coordinates' tangents, or as the Gaussians.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gi_jax.fitting.optimizers import Coordinates, Tangent
from gi_jax.gaussians import Cholesky, Gaussians

# Names of what a transformation may be given by keyword. One of the sets fits: some
# transformations refuse arguments that they do not know.
_EXTRA_ARGUMENTS: Final = (
    ("value", "grad", "value_fn"),
    ("grad_fn",),
    ("value", "grad", "obj_fn"),
)

# Types with one field each for means, shape and colours.
_FORMS: Final = (Tangent, Cholesky)


class TrackedState(NamedTuple):
    """State of a transformation that asks for parameters which coordinates lack."""

    position: Any  # sum of the updates so far
    inner: Any  # state of the transformation


class Stepper(NamedTuple):
    """A transformation together with the coordinates that it works in."""

    init: Callable[[Gaussians], Any]  # gaussians -> state

    # (state, gaussians, tangent, image_size, value, value_of) -> (gaussians, state):
    # one step, where `value` is the loss of `gaussians`, `tangent` its gradient, and
    # `value_of` the loss of any Gaussians
    step: Callable[..., tuple[Gaussians, Any]]

    # (state, gaussians, rows) -> state, started anew for the marked rows [N]
    restart: Callable[[Any, Gaussians, jax.Array], Any]


class _Plan(NamedTuple):
    """How a transformation is to be called."""

    form: type  # of the trees it is given
    extras: tuple[str, ...]  # names of its extra arguments
    tracked: bool  # it is given the sum of the updates so far as its parameters


def make_stepper(optimizer: Any, coordinates: Coordinates) -> Stepper:
    """Returns the steps of an optax transformation in some coordinates.

    Args:
      optimizer: an optax transformation, with extra arguments or without.
      coordinates: where it steps.

    Returns:
      The steps; all three functions are pure. `init` raises ValueError on a
      transformation that cannot work here, with the reason.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ValueError(
            f"optimizer: expected an optax transformation, got {optimizer!r}"
        )
    inner = optax.with_extra_args_support(optimizer)

    @functools.lru_cache(maxsize=8)
    def cached_plan(structure, shapes):
        return _plan(inner, jax.tree.unflatten(structure, shapes), coordinates.moving)

    def plan_for(gaussians):
        located = jax.eval_shape(coordinates.locate, gaussians)
        leaves, structure = jax.tree.flatten(located)
        shapes = (jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        return cached_plan(structure, tuple(shapes))

    def init(gaussians):
        plan = plan_for(gaussians)
        position = _as(plan.form, coordinates.locate(gaussians))
        state = inner.init(position)
        return TrackedState(position, state) if plan.tracked else state

    def step(state, gaussians, tangent, image_size, value, value_of):
        plan = plan_for(gaussians)
        located = coordinates.locate(gaussians)
        position = state.position if plan.tracked else _as(plan.form, located)

        def moved(change):
            return coordinates.retract(
                gaussians, _as(type(tangent), change), image_size
            )

        def value_at(params):
            return value_of(moved(optax.tree.sub(params, position)))

        tangent_given = _as(plan.form, tangent)
        change, new_state = inner.update(
            tangent_given,
            state.inner if plan.tracked else state,
            position,
            **_extras(plan, value, tangent_given, value_at),
        )
        if plan.tracked:
            position = optax.tree.add(position, change)
            new_state = TrackedState(position, new_state)
        return moved(change), new_state

    def restart(state, gaussians, rows):
        axes = _row_axes(init, gaussians)
        return jax.tree.map(
            functools.partial(_where_axes, rows), axes, init(gaussians), state
        )

    return Stepper(init, step, restart)


def _plan(inner, located, moving: bool) -> _Plan:
    """Finds out how a transformation is to be called, by tracing it.

    Raises:
      ValueError: where nothing works.
    """

    def trace(plan):
        def first_update(params, value):
            def total(params):
                return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)) + value

            state = inner.init(params)
            given = None if moving and not plan.tracked else params
            return inner.update(
                params, state, given, **_extras(plan, value, params, total)
            )[0]

        given = _as(plan.form, located)
        change = jax.eval_shape(
            first_update, given, jax.ShapeDtypeStruct((), jnp.float32)
        )
        for field, (old, new) in enumerate(
            zip(*map(jax.tree.leaves, (given, change)), strict=True)
        ):
            if old.shape != new.shape:
                raise ValueError(
                    f"the update of field {field} has the shape {new.shape}, expected "
                    f"{old.shape}, that of its gradient"
                )

    reason = None
    for plan in _plans(type(located), moving):
        try:
            trace(plan)
        except Exception as error:  # Whatever it is, this call does not work.
            # The most that can be given, in the form that coordinates have.
            if reason is None and plan.tracked == moving:
                reason = error
        else:
            return plan
    if isinstance(reason, AttributeError) and reason.name == "fast":
        raise ValueError(
            "optimizer: optax.lookahead is not supported: it steps pairs of fast and "
            "slow parameters, and a fit has one set of Gaussians"
        ) from reason
    fields = ", ".join(getattr(type(located), "_fields", ()))
    other = " or as the Gaussians" if type(located) in _FORMS else ""
    raise ValueError(
        "optimizer: expected an optax transformation that can step in these "
        f"coordinates, whose fields are {fields} (masks and labels are shaped as "
        f"{type(located).__name__}{other}); tracing it gave {type(reason).__name__}: "
        f"{reason}"
    ) from reason


def _plans(form: type, moving: bool) -> Iterator[_Plan]:
    others = [other for other in _FORMS if form in _FORMS and other is not form]
    for one in (form, *others):
        for extras in _EXTRA_ARGUMENTS:
            if moving:
                yield _Plan(one, extras, tracked=False)
            yield _Plan(one, extras, tracked=moving)


def _extras(plan: _Plan, value, tangent, value_at) -> dict[str, Any]:
    """Returns the extra arguments of an update."""
    known = {
        "value": value,
        "grad": tangent,
        "value_fn": value_at,
        "obj_fn": value_at,
        "grad_fn": lambda params, _: jax.grad(value_at)(params),
    }
    return {name: known[name] for name in plan.extras}


def _as(form: type, tree: Any) -> Any:
    """Returns the same fields as another type."""
    return tree if isinstance(tree, form) else form(*tree)


def _row_axes(init: Callable[[Any], Any], gaussians: Gaussians) -> Any:
    """Returns which axes of each leaf of a state count Gaussians, as tuples.

    They are those that grow by one with one more Gaussian. A table that happens to have
    N entries does not.
    """

    def shapes(extra):
        more = [
            jax.ShapeDtypeStruct((leaf.shape[0] + extra, *leaf.shape[1:]), leaf.dtype)
            for leaf in jax.tree.leaves(gaussians)
        ]
        return jax.eval_shape(init, jax.tree.unflatten(structure, more))

    structure = jax.tree.structure(gaussians)
    return jax.tree.map(
        lambda a, b: _Axes(i for i, n in enumerate(a.shape) if b.shape[i] == n + 1),
        shapes(0),
        shapes(1),
    )


class _Axes(frozenset):
    """Numbers of axes; unlike a tuple, a leaf."""


def _where_axes(rows: jax.Array, axes: _Axes, new: jax.Array, old: jax.Array):
    """Takes from `new` what belongs to a marked row along any of the axes."""
    marked = jnp.zeros((), bool)
    for axis in axes:
        shape = [-1 if i == axis else 1 for i in range(new.ndim)]
        marked |= rows.reshape(shape)
    return jnp.where(marked, new, old) if axes else old
