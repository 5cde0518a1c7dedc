"""Fixtures for tests of the command: a codec that takes no time, and a photo."""

import dataclasses

import numpy as np
import pytest
from skimage import data

import gi_jax as gi
from gi_jax import images
from gi_jax.command import flags, main

PHOTO = data.astronaut()[60:100, 190:238]  # 40x48, with detail


@dataclasses.dataclass(frozen=True)
class FakeInfo:
    num_gaussians: int
    num_bytes: int
    section_bytes: dict[str, int]
    bits_per_gaussian: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"MEAN": 16.0, "total": 32.0}
    )  # A field, as in the real one.


@pytest.fixture(name="codec")
def fake_codec(monkeypatch):
    """Replaces the library by one whose files are the pixels, 'XX' and all."""
    calls = []

    def encode(image, **settings):
        calls.append(settings)
        height, width, channels = image.shape
        size = np.array([height, width, channels], np.uint16)
        return b"XX" + size.tobytes() + images.to_uint8(image).tobytes()

    def decode(data, *, scale=1.0):
        if data[:2] != b"XX":
            raise ValueError("expected XX\nat the start")
        shape = np.frombuffer(data[2:8], np.uint16)
        picture = np.frombuffer(data[8:], np.uint8).reshape(shape)
        return picture.repeat(int(scale), 0).repeat(int(scale), 1)

    def file_info(data):
        decode(data)
        return FakeInfo(7, len(data), {"MEAN": len(data) - 8})

    monkeypatch.setattr(gi, "encode_paper", encode)
    for fake in encode, decode, file_info:
        monkeypatch.setattr(gi, fake.__name__, fake, raising=False)
    return calls


@pytest.fixture(name="photo")
def photo_file(tmp_path):
    images.save_image(tmp_path / "photo.png", PHOTO)
    return tmp_path / "photo.png"


def gi_command(*args):
    """Runs the command in this process; returns the exit code."""
    try:
        return main.main(flags.parse(["gi", *map(str, args)]))
    except SystemExit as exit:
        return exit.code
