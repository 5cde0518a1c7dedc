"""Compresses scikit-image's astronaut, decodes it and shows both side by side.

    python -m experiments.demo

Writes demo/astronaut.gi, demo/astronaut.png (decoded from the bytes of the file alone)
and demo/side_by_side.png (the photo on the left).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
from absl import app, flags, logging

import gi_jax as gi
from gi_jax.images import atomic_write, save_image

_WORKDIR = flags.DEFINE_string("workdir", "demo", "folder for the files")
_QUALITY = flags.DEFINE_integer("quality", 50, "1 to 100", 1, 100)
_EFFORT = flags.DEFINE_integer("effort", 3, "1, the fastest, to 9", 1, 9)


def run(photo: np.ndarray, folder: Path, quality: int, effort: int) -> str:
    """Encodes and decodes a photo; returns a line of results.

    Args:
      photo: [H, W, C] uint8.
      folder: made if it does not exist.
      quality: of the file, 1 to 100.
      effort: 1, the fastest, to 9, the smallest files.
    """
    start = time.perf_counter()
    data = gi.encode(photo, quality=quality, effort=effort)
    encoded = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "astronaut.gi", data)
    decoded = gi.decode((folder / "astronaut.gi").read_bytes())
    seconds = encoded - start, time.perf_counter() - encoded
    save_image(folder / "astronaut.png", decoded)
    gap = np.full((photo.shape[0], 8, photo.shape[2]), 255, np.uint8)
    both = np.concatenate([photo, gap, decoded], axis=1)
    save_image(folder / "side_by_side.png", both)
    a, b = decoded / np.float32(255), photo / np.float32(255)
    bpp = 8 * len(data) / (photo.shape[0] * photo.shape[1])
    return (
        f"{len(data)} bytes, {bpp:.3f} bpp, {gi.psnr(a, b):.2f} dB PSNR, "
        f"{gi.ms_ssim(a, b):.4f} MS-SSIM, encoded in {seconds[0]:.1f} s, "
        f"decoded in {seconds[1]:.1f} s (compilation included)"
    )


def main(argv: Sequence[str]) -> None:
    """Runs the demonstration."""
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {' '.join(argv[1:])}")
    folder = Path(_WORKDIR.value)
    print(run(skimage.data.astronaut(), folder, _QUALITY.value, _EFFORT.value))
    for name in ("astronaut.gi", "astronaut.png", "side_by_side.png"):
        print(folder / name)


if __name__ == "__main__":
    # JAX informs about every backend that it does not find.
    app.call_after_init(lambda: logging.set_verbosity(logging.WARNING))
    app.run(main)
