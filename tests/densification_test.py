import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from gi_jax.fitting import densification
from tests.helpers import scene


def test_seeds_lie_on_the_largest_errors():
    residual = np.zeros((30, 40, 3), np.float32)
    for rank, (y, x) in enumerate([(5, 7), (20, 30), (12, 22)]):
        residual[y, x] = 1.0 - 0.2 * rank
    new = densification.seeds(jax.random.key(0), jnp.asarray(residual), 3, 25.0)
    np.testing.assert_allclose(new.means, [[7.5, 5.5], [30.5, 20.5], [22.5, 12.5]])
    assert (new.colors > 0).all()


def test_births_and_moves_happen_at_their_steps():
    size, total = (32, 32), 20
    gaussians = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]),
        jax.tree.map(jnp.asarray, scene(0, 12, size)),
        densification.unborn(8, 3),
    )
    growth = densification.densify({3: 5, 6: 3}, [8], move_share=0.1)
    grow = jax.jit(growth.apply)
    assert growth.steps == {3, 6, 8}
    residual = jax.random.normal(jax.random.key(0), (*size, 3))
    born = jnp.int32(12)
    for step in 3, 6, 8:
        key = jax.random.key(step)
        new, now, placed = grow(key, jnp.int32(step), gaussians, born, residual)
        expected = {3: 5, 6: 3}.get(step, 0)
        assert int(now - born) == expected
        moved = 2 if step == 8 else 0
        assert int(placed.sum()) == expected + moved
        np.testing.assert_array_equal(
            new.means[~np.asarray(placed)], gaussians.means[~np.asarray(placed)]
        )
        if step == 8:
            energy = np.sum(gaussians.colors**2, 1) * gi.gaussians.area(gaussians)
            assert set(np.flatnonzero(placed)) == set(np.argsort(energy)[:2])
        gaussians, born = new, now
    assert int(born) == total
    assert (gaussians.means > -10).all()


def test_the_unborn_are_not_drawn():
    unborn = densification.unborn(1000, 3)
    picture, gradient = jax.value_and_grad(
        lambda g: jnp.sum(gi.rasterize(g, (20, 20)))
    )(unborn._replace(colors=unborn.colors + 1))
    assert picture == 0
    assert all((leaf == 0).all() for leaf in gradient)


@pytest.mark.parametrize("births", [{5: -3}, {0: 3}, {5: 2.5}])
def test_births_that_are_none(births):
    with pytest.raises(ValueError, match=r"births: a .*expected an integer"):
        gi.densify(births)
