import jax.numpy as jnp
import numpy as np
import pytest

from gi_jax.fitting.rate import energy_rate, estimated_bits
from gi_jax.gaussians import Cholesky

# Standard deviations 2 and 3 and 1: areas 6π and π.
GAUSSIANS = Cholesky(
    jnp.zeros((2, 2)),
    jnp.float32([[2, 0.5, 3], [1, 0, 1]]),
    jnp.float32([[0.1, 0.2, 0.2], [0, 0, 0]]),
)


def test_bits_are_the_formula():
    step = 0.3
    bits = estimated_bits(GAUSSIANS, step)
    energy = 0.09 * 6 * np.pi
    expected = 4 * np.log2(1 + energy / step**2) - np.log2(6)
    np.testing.assert_allclose(bits, [expected, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("step", "share"), [(0, 0.25), (1, 0.5), (3, 1), (9, 1)])
def test_the_term_is_that_of_a_mean_squared_error_and_ramps_up(step, share):
    size = (10, 20, 3)
    term = energy_rate(0.3, trade_off=0.1, ramp_steps=4)
    bits = estimated_bits(GAUSSIANS, 0.3).sum()
    expected = share * 0.1 * 0.3**2 * bits / np.prod(size)
    np.testing.assert_allclose(
        term(GAUSSIANS, jnp.int32(step), size), expected, rtol=1e-5
    )
