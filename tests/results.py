"""Results of experiments for tests, made in moments."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gi_jax as gi
from experiments import compression, runner
from experiments.config import fingerprint
from gi_jax.images import save_image, to_uint8
from tests.helpers import photo, random_symbols

SIZE = (40, 48)
STEPS = {0.2: 40, 0.4: 20}  # of our files: numbers of Gaussians


@functools.cache
def file_at(step: float) -> bytes:
    """Returns a file of random Gaussians, more of them for smaller steps."""
    symbols = random_symbols(max(STEPS.values()), 3, SIZE)
    part = symbols._replace(
        **{name: x[: STEPS[step]] for name, x in symbols._asdict().items()}
    )
    return gi.write_symbols(part, step / 10, gi.quantized_mean([0.5] * 3), SIZE)


def picture() -> np.ndarray:
    """Returns what the best of the files shows, with noise."""
    noise = np.random.default_rng(0).normal(size=(*SIZE, 3))
    return to_uint8(gi.decode(file_at(min(STEPS))) / 255 + 0.02 * noise)


@contextlib.contextmanager
def quick_encoder() -> Iterator[list[float]]:
    """Replaces `gi.encode`; gives the list of the steps that were asked for."""
    asked = []

    def encode(pixels, *, step, **settings):
        asked.append(step)
        return file_at(step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gi, "encode", encode)
        yield asked


def compression_config(folder: Path, **settings) -> compression.Config:
    """Writes a picture; returns what says to compress it."""
    save_image(folder / "noise.png", picture())
    return compression.Config(
        **{
            "images": f"{folder}/*.png",
            "workdir": f"{folder}/out",
            "steps": "0.2,0.4",
            "others": "jpeg 4:2:0",
            "range": "0.01,9",
        }
        | settings
    )


def compressed(folder: Path) -> Path:
    """Makes results of compression; returns their workdir."""
    config = compression_config(folder)
    with quick_encoder():
        assert runner.run(compression.EXPERIMENT, config) == 0
    return Path(config.workdir)


def fitted(folder: Path, name: str, *, num_gaussians: int, psnr: float) -> Path:
    """Writes what a fit of one picture leaves, as fast as it can be written."""
    image = photo(*SIZE)
    settings = {
        "num_gaussians": num_gaussians,
        "steps": 3,
        "preset": "fast",
        "loss": "l2",
        "seed": 0,
        "crop": None,
        "pixels": fingerprint({"name": name}),
    }
    values = {
        "psnr": psnr,
        "ms_ssim": 0.9,
        "num_gaussians": num_gaussians,
        "steps": 3,
        "seconds": 0.5,
        "height": SIZE[0],
        "width": SIZE[1],
        "channels": 3,
        "history": {"step": [1, 2, 3], "psnr": [10.0, 15.0, psnr]},
    }
    folder.mkdir(parents=True)
    save_image(folder / "picture.png", image)
    gaussians = gi.Cholesky(
        np.float32([[20, 20]]), np.float32([[9, 3, 2]]), np.float32([[0.1, 0.2, 0.3]])
    )
    np.savez(folder / "gaussians.npz", **gaussians._asdict())
    runner.write_finished(folder, folder / f"{name}.png", settings, values)
    return folder
