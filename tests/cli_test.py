"""Tests of the command line."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import gi_jax as gi
from gi_jax import images, program_cache
from gi_jax.command import printing
from tests.fake_codec import PHOTO, fake_codec, photo_file  # noqa: F401
from tests.fake_codec import gi_command as _gi


def _subprocess(*args, **kwargs):
    command = [sys.executable, "-c", "from gi_jax import cli; cli.run()"]
    return subprocess.run(
        [*command, *map(str, args)], capture_output=True, text=True, **kwargs
    )


@pytest.mark.parametrize("command", [[], ["encode"], ["decode"], ["info"]])
def test_help_suffices(capsys, command):
    assert _gi(*command, "--help") == 0
    out = capsys.readouterr().out
    assert " ".join(["  gi", *command]) in out  # an example
    assert max(map(len, out.splitlines())) <= 88


def test_the_module_and_its_help_need_no_jax():
    script = (
        "import sys\n"
        "from gi_jax import cli\n"
        "early = {'argparse', 'absl'} & set(sys.modules)\n"
        "sys.argv = ['gi', '--help']\n"
        "try: cli.run()\n"
        "except SystemExit as exit: assert not exit.code\n"
        "heavy = {'jax', 'numpy', 'PIL', 'gi_jax.api'} & set(sys.modules)\n"
        "assert not heavy | early, heavy | early"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


@pytest.fixture
def no_cache():
    name = "jax_compilation_cache_dir"
    before = jax.config.jax_compilation_cache_dir
    jax.config.update(name, None)
    yield
    jax.config.update(name, before)


def test_compiled_programs_are_kept(no_cache, tmp_path, monkeypatch):
    def folder_with(home):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        program_cache.keep_programs()
        return jax.config.jax_compilation_cache_dir

    (tmp_path / "file").touch()
    assert folder_with(tmp_path / "file") is None  # Nothing can lie there.
    assert folder_with(tmp_path) == str(tmp_path / "gi_jax")
    assert folder_with(tmp_path / "other") == str(tmp_path / "gi_jax")  # As it was set.


def test_kept_programs_are_bounded(tmp_path):
    for age in range(5):
        file = tmp_path / f"program{age}-cache"
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - 10 * age))
    program_cache.drop_oldest(tmp_path, max_bytes=250)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["program0-cache", "program1-cache"]
    program_cache.drop_oldest(tmp_path)
    program_cache.drop_oldest(None)
    assert len([*tmp_path.iterdir()]) == 2


def test_programs_that_may_be_half_written_are_dropped(tmp_path):
    for name, seconds in {"old-cache": 60, "new-cache": 0, "new": 0}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - seconds,) * 2)
    program_cache.drop_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old-cache"]


def test_the_real_command(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _subprocess("--version").stdout.startswith("gi_jax ")
    wrong = _subprocess("encode", "--steps=0", "a.png")
    assert wrong.returncode == 2
    assert "expected at least 1, got 0" in wrong.stderr
    missing = _subprocess("encode", "missing.png", cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr == "gi: missing.png: No such file or directory\n"
    assert missing.stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["shrink", "a.png"],
        ["encode"],
        ["encode", "a.png", "--num_gaussians=0"],
        ["encode", "a.png", "--quality=0"],
        ["encode", "a.png", "--target_bpp=0"],
        ["encode", "a.png", "--num_gaussians=many"],
        ["encode", "a.png", "--seed=-1"],
        ["encode", "a.png", "--preset=best"],
        ["encode", "a.png", "--forc"],
        ["decode", "a.gi", "--scale=0"],
        ["decode", "a.gi", "--scale=nan"],
        ["decode", "a.gi", "--scale=big"],
    ],
)
def test_wrong_usage(capsys, args):
    assert _gi(*args) == 2
    assert "usage: gi" in capsys.readouterr().err


def test_encode_info_decode(codec, photo, capsys):
    settings = ["--target_bpp=0.5", "--effort=2", "--tune=ssim", "--seed=4"]
    assert _gi("encode", photo, *settings) == 0
    assert codec == [
        {
            "target_bpp": 0.5,
            "effort": 2,
            "tune": "ssim",
            "seed": 4,
            "progress": False,
        },
    ]
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith(
        f"{photo} -> {photo.with_suffix('.gi')}: 5768 bytes, 24.0333 bpp, "
        "inf dB PSNR, 1.0000 MS-SSIM, 7 Gaussians, "
    )
    assert _gi("info", photo.with_suffix(".gi")) == 0
    out = capsys.readouterr().out.split("\n")
    assert out[1].split() == ["num_gaussians", "7"]
    assert out[-3].split() == ["MEAN", "5760", "16.00"]
    assert out[-2].split() == ["total", "5768", "32.00"]
    decoded = photo.with_name("decoded.png")
    assert _gi("decode", photo.with_suffix(".gi"), "-o", decoded, "--scale=2") == 0
    assert "96x80 pixels" in capsys.readouterr().out
    picture = images.to_uint8(images.load_image(decoded))
    np.testing.assert_array_equal(picture[::2, ::2], PHOTO)


def test_the_papers_codec_has_flags_of_its_own(codec, photo, capsys):
    settings = ["--num_gaussians=9", "--steps=3", "--preset=paper", "--order=bits_back"]
    assert _gi("encode", photo, "--codec=paper", *settings) == 0
    assert codec[0]["num_gaussians"] == 9 and codec[0]["order"] == "bits_back"
    assert _gi("encode", photo, "--force", *settings) == printing.USAGE
    assert "--num_gaussians, --steps, --preset, --order" in capsys.readouterr().err
    assert _gi("encode", photo, "--quality=3", "--target_bytes=9") == printing.USAGE
    assert "not allowed with" in capsys.readouterr().err


def test_json(codec, photo, capsys):
    encoded = photo.with_suffix(".gi")
    assert _gi("encode", photo, "--json") == 0
    assert _gi("info", encoded, "--json") == 0
    assert _gi("decode", encoded, "-o", photo, "--force", "--json") == 0
    encode, info, decode = map(json.loads, capsys.readouterr().out.splitlines())
    assert encode["bpp"] == 24.0333  # six digits of 8 * 5768 / (40 * 48)
    assert encode["psnr"] is None  # equal pictures: inf
    assert encode["output"] == info["file"] == decode["file"] == str(encoded)
    assert info["section_bytes"] == {"MEAN": 5760}
    assert (decode["height"], decode["width"], decode["channels"]) == (40, 48, 3)


def test_folders(codec, photo, tmp_path, capsys):
    images.save_image(tmp_path / "grey.JPG", PHOTO[..., :1])
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    out = tmp_path / "deep" / "out"
    assert _gi("encode", tmp_path, "-o", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["grey.gi", "photo.gi"]
    assert _gi("decode", out, "-o", tmp_path / "decoded") == 0
    assert len(list((tmp_path / "decoded").iterdir())) == 2
    assert _gi("encode", photo, "-o", f"{tmp_path}/new/") == 0
    assert (tmp_path / "new" / "photo.gi").exists()
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    assert _gi("encode", tmp_path / "empty") == 1
    assert "no file in it ends in .png, " in capsys.readouterr().err


def test_one_bad_file_fails_alone(codec, photo, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(photo.read_bytes()[:-50])
    assert _gi("encode", tmp_path, tmp_path / "none.png", "-o", tmp_path / "out") == 1
    captured = capsys.readouterr()
    a, b, none = captured.err.splitlines()
    assert a.startswith(f"gi: {tmp_path}/a.png: expected a picture file (")
    assert b.startswith(f"gi: {tmp_path}/b.png: expected a whole picture: ")
    assert none == f"gi: {tmp_path}/none.png: No such file or directory"
    assert captured.out.startswith(f"{photo} -> ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.gi"]


def test_messages_are_one_line(codec, tmp_path, capsys):
    (tmp_path / "a.gi").write_bytes(b"hello")
    for command in "info", "decode":
        assert _gi(command, tmp_path / "a.gi") == 1
        expected = f"gi: {tmp_path}/a.gi: expected XX at the start\n"
        assert capsys.readouterr().err == expected
    assert _gi("info", tmp_path) == 1
    assert capsys.readouterr().err == f"gi: {tmp_path}: Is a directory\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gi"]


def test_unexpected_errors_carry_their_type(codec, photo, capsys, monkeypatch):
    def broken(image, **settings):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(gi, "encode", broken)
    assert _gi("encode", photo) == 1
    assert capsys.readouterr().err == f"gi: {photo}: RuntimeError: out of memory\n"


def test_existing_files_are_kept(codec, photo, tmp_path, capsys):
    images.save_image(tmp_path / "other.png", PHOTO)
    kept = tmp_path / "photo.gi"
    kept.write_bytes(b"precious")
    assert _gi("encode", photo, tmp_path / "other.png") == 1
    assert capsys.readouterr().err == f"gi: {kept}: exists; --force replaces it\n"
    assert kept.read_bytes() == b"precious"
    assert (tmp_path / "other.gi").exists()
    assert len(codec) == 1  # It was not even fitted.
    assert _gi("encode", photo, "--force") == 0
    assert kept.read_bytes() != b"precious"


def test_outputs_that_collide(codec, photo, tmp_path, capsys):
    images.save_image(tmp_path / "photo.bmp", PHOTO)
    before = sorted(tmp_path.iterdir())
    for args in (
        [photo, photo],
        [photo, tmp_path],
        [photo, "-o", tmp_path / "q.png"],  # no .gi
        [photo, "-o", tmp_path / "q"],
        [tmp_path, "-o", tmp_path / "q.png"],
        [photo, "-o", photo, "--force"],  # over itself
        [photo, tmp_path / "photo.bmp", "-o", tmp_path / "all.gi"],  # not a folder
        [tmp_path, "-o", photo, "--force"],
    ):
        assert _gi("encode", *args) == 2
        message = capsys.readouterr().err
        assert message.startswith("gi: ")
        assert message.count("\n") == 1
    assert codec == []
    assert sorted(tmp_path.iterdir()) == before


def test_output_that_cannot_be_written(codec, photo, tmp_path, capsys):
    assert _gi("encode", photo, "-o", photo / "inside" / "a.gi") == 1
    output = f"{photo}/inside/a.gi"  # It is named, not the input.
    assert capsys.readouterr().err.startswith(f"gi: {output}: Not a directory")
    assert codec == []
    assert _gi("encode", photo) == 0
    for name in "a.xyz", "a.gif", "a":  # Found before the work.
        output = tmp_path / name
        assert _gi("decode", photo.with_suffix(".gi"), "-o", output) == printing.USAGE
        message = capsys.readouterr().err
        assert message.startswith(f"gi: {output}: expected a name that ends in .png, ")
        assert not output.exists()


def test_ctrl_c_leaves_no_file(codec, photo, tmp_path, capsys, monkeypatch):
    def interrupted(source, target):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(os, "link", interrupted)
    # As in a terminal: what is started in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert _gi("encode", photo) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "gi: interrupted\n"
    assert list(tmp_path.iterdir()) == [photo]


def test_real_round_trip(photo, tmp_path, capsys):
    first, second = tmp_path / "1.gi", tmp_path / "2.gi"
    settings = ["--effort=1", "--json"]
    assert _gi("encode", photo, "-o", first, *settings) == 0
    assert _gi("encode", photo, "-o", second, *settings) == 0
    assert first.read_bytes() == second.read_bytes()
    assert _gi("info", first, "--json") == 0
    assert _gi("decode", first, "-o", tmp_path / "decoded.png", "--json") == 0
    encode, _, info, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert encode["bytes"] == info["num_bytes"] == first.stat().st_size
    assert sum(info["section_bytes"].values()) == info["num_bytes"]
    decoded = images.load_image(tmp_path / "decoded.png")
    error = np.mean((decoded - PHOTO / 255) ** 2)
    # The printed PSNR is that of the decoded file.
    assert abs(encode["psnr"] + 10 * np.log10(error)) < 1e-3
    assert encode["psnr"] > 18


def test_real_hostile_files(photo, tmp_path, capsys):
    encoded = tmp_path / "photo.gi"
    assert _gi("encode", photo, "--effort=1") == 0
    whole = encoded.read_bytes()
    capsys.readouterr()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for hostile in b"", whole[:-1], whole + b"\0", bytes(flipped), photo.read_bytes():
        encoded.write_bytes(hostile)
        for command in "info", "decode":
            assert _gi(command, encoded, *["--force"][: command == "decode"]) == 1
            error = capsys.readouterr().err
            assert error.startswith(f"gi: {encoded}: ")
            assert error.count("\n") == 1
