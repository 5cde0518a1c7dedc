"""Tests of the metrics against scikit-image and a written-out reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate1d
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from gi_jax import images, metrics

METRICS = {
    "mse": metrics.mse,
    "psnr": metrics.psnr,
    "ssim": metrics.ssim,
    "ms_ssim": metrics.ms_ssim,
}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)


def _pair(height=200, width=180, channels=3, noise=0.1):
    """Returns a crop of a photo and the same with noise and another brightness."""
    photo = data.astronaut()[100 : 100 + height, 150 : 150 + width] / np.float32(255)
    photo = np.tile(photo, (1, 1, 2))[..., :channels]
    rng = np.random.default_rng(0)
    other = 0.9 * photo + noise * rng.standard_normal(photo.shape, np.float32)
    return photo, np.clip(other, 0, 1)


def _reference_ms_ssim(a, b, size=11, scales=5):
    """The definition, one channel at a time, in float64."""
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    weights = weights / weights.sum() * 1.0001
    offsets = np.arange(size) - size // 2
    taps = np.exp(-(offsets**2) / (2 * 1.5**2))
    taps /= taps.sum()
    inside = slice(size // 2, -(size // 2) or None)

    def blur(x):
        return correlate1d(correlate1d(x, taps, 0), taps, 1)[inside, inside]

    def pool(x):
        x = np.pad(x, [(n % 2, 0) for n in x.shape])
        x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
        return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4

    values = []
    for c in range(a.shape[2]):
        x, y = a[..., c].astype(np.float64), b[..., c].astype(np.float64)
        value = 1.0
        for scale, weight in enumerate(weights):
            mx, my = blur(x), blur(y)
            vx, vy = blur(x * x) - mx * mx, blur(y * y) - my * my
            contrast = (2 * (blur(x * y) - mx * my) + 9e-4) / (vx + vy + 9e-4)
            luminance = (2 * mx * my + 1e-4) / (mx * mx + my * my + 1e-4)
            last = scale == scales - 1
            term = np.mean(luminance * contrast if last else contrast)
            value *= max(term, 0) ** weight
            x, y = pool(x), pool(y)
        values.append(value)
    return np.mean(values)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_psnr_and_ssim_match_scikit_image(channels):
    a, b = _pair(channels=channels)
    expected = peak_signal_noise_ratio(a, b, data_range=1)
    np.testing.assert_allclose(metrics.psnr(a, b), expected, rtol=1e-5)
    expected = structural_similarity(
        a.astype(np.float64),
        b.astype(np.float64),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    # Variances are differences of float32 numbers near 1 (6e-8), against C2 = 9e-4.
    np.testing.assert_allclose(metrics.ssim(a, b), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "size", "scales"),
    [
        ((192, 176, 3), 11, 5),
        ((181, 163, 1), 11, 5),
        ((161, 200, 2), 11, 5),
        ((160, 200, 2), 11, 4),
        ((81, 99, 3), 11, 4),
        ((21, 40, 3), 11, 2),
        ((20, 40, 3), 11, 1),
        ((10, 40, 3), 9, 1),
        ((3, 3, 1), 3, 1),
        ((2, 9, 3), 1, 1),
    ],
)
def test_ms_ssim_matches_the_definition(shape, size, scales):
    a, b = _pair(*shape)
    expected = _reference_ms_ssim(a, b, size, scales)
    np.testing.assert_allclose(metrics.ms_ssim(a, b), expected, atol=2e-5)


def test_ms_ssim_counts_negative_contrast_as_zero():
    a, _ = _pair(64, 64)
    assert metrics.ms_ssim(a, 1 - a) == 0
    gradient = jax.jit(jax.grad(metrics.ms_ssim))(jnp.asarray(a), 1 - a)
    assert jnp.isfinite(gradient).all()


@every_metric
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 9, 3), (2, 2, 4), (5, 4, 3), (11, 12, 1), (12, 23, 6)]
)
def test_small_pictures_have_finite_values_and_gradients(metric, shape):
    a, b = _pair(*shape)
    value, gradient = jax.jit(jax.value_and_grad(metric))(jnp.asarray(a), b)
    assert value.shape == ()
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


@every_metric
@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 48, 3)])
@pytest.mark.parametrize("flat", [False, True])
def test_equal_pictures(metric, shape, flat):
    a = jnp.asarray(_pair(*shape)[0])
    a = jnp.zeros_like(a) if flat else a
    value, gradient = jax.jit(jax.value_and_grad(metric))(a, a)
    expected = {metrics.mse: 0, metrics.psnr: np.inf}.get(metric, 1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # 1 is the maximum of SSIM.
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


@every_metric
def test_gradients_match_finite_differences(metric):
    a, b = _pair(24, 26)
    direction = np.random.default_rng(1).standard_normal(a.shape)
    with jax.enable_x64(True):
        a, b = jnp.asarray(a, jnp.float64), jnp.asarray(b, jnp.float64)
        step = 1e-5
        ahead, behind = metric(b + step * direction, a), metric(b - step * direction, a)
        slope = jnp.vdot(jax.grad(metric)(b, a), direction)
        # Central differences err by step² / 6 of the third derivative.
        np.testing.assert_allclose((ahead - behind) / (2 * step), slope, rtol=1e-6)


@every_metric
def test_jit_and_vmap(metric):
    a, b = _pair(30, 40)
    single = jax.jit(metric)
    value = single(a, b)
    np.testing.assert_allclose(metric(a, b), value, rtol=1e-5)
    batch = jax.vmap(metric)(jnp.stack([a, b]), jnp.stack([b, b]))
    np.testing.assert_allclose(batch, [value, metric(b, b)], rtol=1e-5)
    np.testing.assert_allclose(single(b, a), value, rtol=1e-5)  # symmetric
    assert single._cache_size() == 1


@every_metric
def test_low_precision_is_computed_in_float32(metric):
    a, b = _pair(24, 24)
    halves = jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16)
    value = metric(*halves)
    assert value.dtype == jnp.float32
    expected = metric(*(half.astype(jnp.float32) for half in halves))
    np.testing.assert_array_equal(value, expected)


def test_round_to_8_bits_agrees_with_the_files():
    values = np.random.default_rng(0).uniform(-0.2, 1.2, (40, 50, 3)).astype(np.float32)
    rounded = metrics.round_to_8_bits(values)
    expected = images.to_uint8(values) / np.float32(255)
    np.testing.assert_allclose(rounded, expected, rtol=1e-6)
    np.testing.assert_array_equal(images.to_uint8(rounded), images.to_uint8(values))


@every_metric
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((4, 5, 3)), np.zeros((4, 5, 1)), r"\[4, 5, 3\] and \[4, 5, 1\]"),
        (np.zeros((4, 5)), np.zeros((4, 5)), r"\[H, W, C\]"),
        (np.zeros((2, 4, 5, 3)), np.zeros((2, 4, 5, 3)), r"\[H, W, C\]"),
        (np.zeros((0, 5, 3)), np.zeros((0, 5, 3)), r"\[0, 5, 3\]"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3)), "float .* got uint8"),
    ],
)
def test_other_arguments_are_refused(metric, a, b, message):
    with pytest.raises(ValueError, match=message):
        metric(a, b)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.ms_ssim])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pairs_of_integer_pictures_are_taken(metric, dtype):
    most = np.iinfo(dtype).max
    a, b = np.random.default_rng(0).integers(0, most, (2, 24, 32, 3)).astype(dtype)
    expected = metric(a / np.float32(most), b / np.float32(most))
    np.testing.assert_allclose(metric(a, b), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"got uint.* and float"):
        metric(a, b / most)
