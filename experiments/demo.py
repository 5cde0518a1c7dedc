"""Compresses scikit-image's astronaut, decodes it and shows both side by side.

    python -m experiments.demo

Writes demo/astronaut.gi, demo/astronaut.png (decoded from the bytes of the file alone)
and demo/side_by_side.png (the photo on the left).
"""

import dataclasses
import time
from pathlib import Path

import numpy as np

import gi_jax as gi
from experiments.config import run_script, setting
from experiments.optional import optional
from gi_jax.images import atomic_write, save_image

skimage_data = optional("skimage.data")


@dataclasses.dataclass(frozen=True)
class Config:
    """How to compress it, and where the files go."""

    workdir: str = setting("demo", help="folder for the files")
    quality: int = setting(50, help="1 to 100")
    effort: int = setting(3, help="1, the fastest, to 9")

    def __post_init__(self) -> None:
        for name, high in ("quality", 100), ("effort", 9):
            if not 1 <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name}: expected 1 to {high}, got {getattr(self, name)}"
                )


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


def main(config: Config) -> None:
    """Runs the demonstration."""
    folder = Path(config.workdir)
    print(run(skimage_data.astronaut(), folder, config.quality, config.effort))
    for name in ("astronaut.gi", "astronaut.png", "side_by_side.png"):
        print(folder / name)


if __name__ == "__main__":
    run_script(Config, main)
