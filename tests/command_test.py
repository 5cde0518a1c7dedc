"""Names, sizes and errors of the command, with a codec that takes no time."""

import errno
import json

import pytest

from gi_jax import images
from gi_jax.command import flags, printing
from tests.fake_codec import PHOTO, fake_codec, photo_file  # noqa: F401
from tests.fake_codec import gi_command as _gi


@pytest.mark.parametrize("function", ["os.open", "os.fsync", "os.link"])
def test_errors_of_writing_name_the_output(
    codec, photo, tmp_path, capsys, monkeypatch, function
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(function, full)
    if function == "os.link":  # Only then is a file renamed.
        monkeypatch.setattr("os.replace", full)
    assert _gi("encode", photo, "-o", tmp_path / "a.gi") == 1
    expected = f"gi: {tmp_path}/a.gi: No space left on device\n"
    assert capsys.readouterr().err == expected
    assert len(codec) == (function != "os.open")  # A folder is tried before the fit.
    assert list(tmp_path.iterdir()) == [photo]


def test_names_that_differ_in_their_suffix_alone(codec, photo, tmp_path, capsys):
    images.save_image(tmp_path / "photo.bmp", PHOTO)
    images.save_image(tmp_path / "other.bmp", PHOTO)
    assert _gi("encode", tmp_path, "-o", tmp_path / "out") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["other.gi", "photo.bmp.gi", "photo.png.gi"]
    (tmp_path / "more").mkdir()
    images.save_image(tmp_path / "more" / "photo.png", PHOTO)
    same = [photo, tmp_path / "more" / "photo.png", tmp_path / "other.bmp"]
    capsys.readouterr()
    assert _gi("encode", *same, "-o", tmp_path / "new") == 1
    message = f"{tmp_path}/new/photo.gi is the output of {photo} already"
    assert capsys.readouterr().err == f"gi: {same[1]}: {message}\n"
    assert len([*(tmp_path / "new").iterdir()]) == 2


def test_decoding_leaves_the_original_alone(codec, photo, tmp_path):
    before = photo.read_bytes()
    assert _gi("encode", photo) == 0
    for args in [], ["-o", tmp_path], ["-o", f"{tmp_path}/."]:
        assert _gi("decode", tmp_path / "photo.gi", "--force", *args) == 0
        assert photo.read_bytes() == before
        (tmp_path / "photo.decoded.png").unlink()
    assert _gi("decode", tmp_path / "photo.gi", "-o", f"{tmp_path}/new/") == 0
    assert (tmp_path / "new" / "photo.png").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12000", 12000),
        ("10kB", 10_000),
        ("10KB", 10_000),
        ("10KiB", 10_240),
        ("1.5MB", 1_500_000),
        ("2 MiB", 2**21),
        ("7B", 7),
        (".5kB", 500),
        *[
            (text, None)
            for text in ("10k", "kB", "0.5", "-1kB", "1e3", "nan", "10kbit")
        ],
    ],
)
def test_sizes_have_units(capsys, text, size):
    argv = ["gi", "encode", "a.png", f"--target_bytes={text}"]
    if size is None:
        assert _gi(*argv[1:]) == printing.USAGE
        usage, error = capsys.readouterr().err.splitlines()  # not the whole help
        assert usage == "usage: gi encode IN... [-o OUT] [FLAGS]"
        assert error.startswith("gi encode: argument --target_bytes: expected bytes as")
    else:
        assert flags.parse(argv).target_bytes == size


def test_numbers_have_as_many_digits_as_they_are_worth():
    record = {"a": 1 / 3, "b": {"c": (2 / 3, float("inf")), "d": 10**9}}
    expected = {"a": 0.333333, "b": {"c": [0.666667, None], "d": 10**9}}
    assert json.loads(printing.to_json(record)) == expected


def test_a_folder_that_is_a_file(codec, photo, capsys):
    assert _gi("encode", photo, "-o", f"{photo}/") == 1
    expected = f"gi: {photo}/photo.gi: {photo} is not a folder\n"
    assert capsys.readouterr().err == expected
