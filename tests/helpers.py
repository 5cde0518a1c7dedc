"""What several test modules share: scenes of Gaussians, photos, comparisons."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from gi_jax.coding.exact_grids import (
    energy_class,
    lattice,
    lattice_scale,
    log_aspect,
    log_size,
    num_angles,
)
from gi_jax.coding.exact_tables import LOG_UNITS, MIN_LOG_SIZE, tables
from gi_jax.coding.sensitivity import Symbols, nearest_points
from gi_jax.gaussians import (
    CUTOFF,
    Cholesky,
    RotationScale,
    to_cholesky,
    to_rotation_scale,
)
from gi_jax.images import save_image
from gi_jax.rendering import rasterize as choosing

KODAK = Path(__file__).parents[2] / "shared" / "data" / "kodak"


@functools.cache
def photo(height: int = 96, width: int = 128) -> np.ndarray:
    """Returns a crop of the astronaut's face, float32 [H, W, 3] in 0..1."""
    picture = skimage.data.astronaut()[60 : 60 + height, 160 : 160 + width]
    return picture.astype(np.float32) / 255


def kodak(number: int) -> np.ndarray:
    """Returns a Kodak picture, uint8; skips the test where it is absent."""
    path = KODAK / f"kodim{number:02d}.png"
    if not path.exists():
        pytest.skip(f"the Kodak pictures are not in {KODAK}")
    from gi_jax.images import load_image, to_uint8

    return to_uint8(load_image(path))


def scene(
    seed: int,
    count: int,
    image_size: tuple[int, int],
    channels: int = 3,
    sigma: tuple[float, float] = (0.5, 8.0),
    dtype=np.float32,
) -> Cholesky:
    """Returns random Gaussians, a few of them off the picture."""
    rng = np.random.default_rng(seed)
    height, width = image_size
    means = rng.uniform(-0.1, 1.1, (count, 2)) * [width, height]
    s1, s2 = np.exp(rng.uniform(*np.log(sigma), (2, count)))
    angle = rng.uniform(0, np.pi, count)
    cos, sin = np.cos(angle), np.sin(angle)
    l11 = np.hypot(s1 * cos, s2 * sin)
    l21 = (s1**2 - s2**2) * cos * sin / l11
    factor = np.stack([l11, l21, s1 * s2 / l11], axis=1)
    colors = rng.normal(0.1, 0.5, (count, channels))
    return Cholesky(*(x.astype(dtype) for x in (means, factor, colors)))


def random_symbols(
    count: int, channels: int, image_size: tuple[int, int], seed: int = 0
) -> Symbols:
    """Returns symbols like those of a fitted picture, NumPy, none without colour."""
    rng = np.random.default_rng(seed)
    scale = 3 * rng.exponential(size=(count, 1)) * 0.6 ** np.arange(channels)
    colors = np.round(scale * rng.normal(size=(count, channels))).astype(np.int32)
    colors[:, 0] += ~colors.any(axis=1)
    c = energy_class(colors)
    limits = tables()
    m = np.clip(rng.normal(1.2, 0.6, count), -1, 3) * LOG_UNITS - MIN_LOG_SIZE
    size = (m / limits.log_steps[c]).astype(np.int32)
    ring = (rng.beta(1.2, 2.0, count) * limits.num_rings[c]).astype(np.int32)
    turns = num_angles(ring, c)
    angle = (rng.uniform(size=count) * turns).astype(np.int32)
    scale = lattice_scale(log_size(size, c), c)
    cells = lattice(scale, log_aspect(ring, c), angle, turns, image_size)
    means = rng.uniform(size=(count, 2)) * image_size[::-1]
    points = nearest_points(cells, means.astype(np.float32), image_size)
    return Symbols(colors, size, ring, angle, points)


def moderate_scene(seed: int, count: int) -> Cholesky:
    """Returns Gaussians of 40×60 pixels that `sensitivity_matched` can hold.

    Aspects stay below 81, and off the singularity of the angle at 1.
    """
    gaussians = scene(seed, count, (40, 60))
    means, log_scales, angles, colors = to_rotation_scale(gaussians)
    log_scales = log_scales * jnp.float32([1.0, 0.7]) + jnp.float32([0.1, -0.1])
    return to_cholesky(RotationScale(means, log_scales, angles, colors))


def on_the_cut(gaussians: Cholesky, image_size, width: float = 1e-3) -> np.ndarray:
    """Marks the pixels where some exponent is so near the cut that rounding decides.

    There one implementation draws 1/255 of a colour and another draws nothing.
    """
    means, factor, _ = (np.asarray(x, np.float64) for x in gaussians)
    near = np.zeros(image_size, bool)
    y, x = np.mgrid[: image_size[0], : image_size[1]] + 0.5
    for mean, (l11, l21, l22) in zip(means, factor):
        u = (x - mean[0]) / l11
        v = (y - mean[1] - l21 * u) / l22
        near |= np.abs((u * u + v * v) / 2 - CUTOFF) < width
    return near


def assert_close_as_vectors(actual, expected, tolerance: float) -> None:
    """Compares pytrees leaf by leaf: relative L2 distance and cosine.

    One wrong sign among thousands of components cannot hide in it, as it can in an
    elementwise comparison with an absolute tolerance.
    """
    leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, b in leaves:
        a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
        assert np.isfinite(a).all()
        norm = np.linalg.norm(b)
        if norm == 0:
            np.testing.assert_array_equal(a, 0)
            continue
        assert np.linalg.norm(a - b) <= tolerance * norm
        assert a @ b >= (1 - tolerance) * np.linalg.norm(a) * norm


def stamp(folder, size, monkeypatch):
    """Writes a photo, and has all pictures drawn by what compiles quickly.

    Returns:
      What experiments are told of places.
    """
    save_image(folder / "stamp.png", photo(*size))
    monkeypatch.setattr(choosing, "_choose", lambda implementation, gaussians: "dense")
    return {"images": f"{folder}/*.png", "workdir": f"{folder}/out"}


def normal(columns: int, scale: float = 1.0, offset: float = 0.0) -> Callable:
    """Returns a function (seed, n) -> [n, columns] float32, normally distributed."""

    def values(seed, n):
        rng = np.random.default_rng(seed)
        sample = offset + scale * rng.standard_normal((n, columns))
        return jnp.asarray(sample, jnp.float32)

    return values


def assert_same_bits(expected, actual):
    def check(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))

    jax.tree.map(check, expected, actual)
