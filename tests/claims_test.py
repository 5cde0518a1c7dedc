"""Several processes of the command in one folder."""

import multiprocessing

import numpy as np
import pytest

import gi_jax as gi
from gi_jax import images, metrics
from gi_jax.command import flags, main
from gi_jax.command.claims import ClaimedError, claim


def _gi(*args):
    return main.main(flags.parse(["gi", *map(str, args)]))


@pytest.fixture
def folder(tmp_path):
    for level in range(3):
        picture = np.full((16, 16, 3), level, np.uint8)
        images.save_image(tmp_path / f"{level}.png", picture)
    return tmp_path


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_no_picture_is_encoded_twice(folder, capsys, monkeypatch, force):
    """The command runs once more while its first picture is encoded."""
    encoded = []

    def encode(image, **settings):
        encoded.append(round(255 * float(image[0, 0, 0])))
        if len(encoded) == 1:
            assert _gi("encode", folder, "-o", folder / "out", *force) == 1
        return b"file"

    monkeypatch.setattr(gi, "encode", encode)
    monkeypatch.setattr(gi, "decode", lambda data: np.zeros((16, 16, 3), np.uint8))
    monkeypatch.setattr(gi, "file_info", lambda data: _Info)
    monkeypatch.setattr(metrics, "psnr", lambda *args: 1.0)
    monkeypatch.setattr(metrics, "ms_ssim", lambda *args: 1.0)
    assert _gi("encode", folder, "-o", folder / "out", *force) == 1
    assert encoded == [0, 1, 2]
    out = folder / "out"
    assert sorted(path.name for path in out.iterdir()) == ["0.gi", "1.gi", "2.gi"]
    assert capsys.readouterr().err.splitlines() == [
        f"gi: {out}/0.gi: another process is making it",
        f"gi: {out}/1.gi: exists now, another process has written it",
        f"gi: {out}/2.gi: exists now, another process has written it",
    ]


class _Info:
    num_gaussians = 1


def _hold(path, entered, leave):
    with claim(path):
        entered.set()
        leave.wait()


def test_a_claim_ends_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    path, entered, leave = tmp_path / "a.gi", context.Event(), context.Event()
    process = context.Process(target=_hold, args=(path, entered, leave))
    process.start()
    try:
        assert entered.wait(60)
        with pytest.raises(ClaimedError, match="another process"), claim(path):
            pass
        with claim(tmp_path / "b.gi"):  # Only that one is taken.
            pass
    finally:
        process.kill()
        process.join()
    assert len([*tmp_path.iterdir()]) == 1  # What the killed process could not remove
    with claim(path):
        pass
    assert [*tmp_path.iterdir()] == []
