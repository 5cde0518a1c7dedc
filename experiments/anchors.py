"""Codecs to compare with, through Pillow: JPEG, JPEG 2000, WebP and AVIF.

Each with the settings that make its files smallest at its usual speed. JPEG 2000 has
its colour transform (`mct`), which Pillow leaves out by default at a loss of 2.5 dB.
"""

import io
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image


class Anchor(NamedTuple):
    """A codec with all its settings but the one that trades size for quality."""

    format: str  # as Pillow calls it
    options: Mapping[str, Any]
    knob: str  # name of the setting that trades
    values: tuple[float, ...]  # of the knob: from small files to large ones


def _bits_per_pixel(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple(np.geomspace(low, high, count).round(4).tolist())


_JPEG: Final = {"optimize": True, "progressive": True}
_AVIF: Final = {"speed": 4, "codec": "auto"}
_QUALITIES: Final = (1, 3, 5, 8, 12, 16, 20, 25, 30, 36, 43, 50, 58, 66, 74, 82, 90)
_AVIF_QUALITIES: Final = (3, 8, 14, 20, 28, 38, 50, 62, 75)

ANCHORS: Final = {
    "jpeg 4:2:0": Anchor("JPEG", _JPEG | {"subsampling": 2}, "quality", _QUALITIES),
    "jpeg 4:4:4": Anchor("JPEG", _JPEG | {"subsampling": 0}, "quality", _QUALITIES),
    "jpeg 2000": Anchor(
        "JPEG2000",
        {"irreversible": True, "mct": 1, "quality_mode": "rates", "no_jp2": True},
        "bits per pixel",
        _bits_per_pixel(0.05, 2.0, 18),
    ),
    "webp": Anchor("WEBP", {"method": 6}, "quality", (0, *_QUALITIES)),
    "avif 4:2:0": Anchor(
        "AVIF", _AVIF | {"subsampling": "4:2:0"}, "quality", _AVIF_QUALITIES
    ),
    "avif 4:4:4": Anchor(
        "AVIF", _AVIF | {"subsampling": "4:4:4"}, "quality", _AVIF_QUALITIES
    ),
}


def encode(anchor: Anchor, pixels: np.ndarray, value: float) -> bytes:
    """Returns the file of a picture.

    Args:
      anchor: the codec.
      pixels: [H, W, 3] uint8.
      value: of the anchor's knob.
    """
    options: dict[str, Any] = {anchor.knob: int(value)}
    if anchor.format == "JPEG2000":
        options = {
            "quality_layers": [8 * pixels.shape[2] / value]
        }  # Compression ratio.
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, format=anchor.format, **anchor.options, **options
    )
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Returns [H, W, 3] uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
