"""Tests of experiments/config.py and experiments/fit.py."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from absl import app, flags
from skimage import data

import gi_jax as gi
from experiments import config, fit, plots, runner
from gi_jax import images, metrics

PHOTO = data.astronaut()[60:93, 190:231]  # 33x41


class FakeResult(NamedTuple):
    gaussians: gi.Cholesky
    psnr: float
    history: dict[str, np.ndarray]
    seconds: float


def run(settings):
    return runner.run(fit.EXPERIMENT, settings)


@pytest.fixture
def fits(monkeypatch):
    """Replaces `gi.fit` by something instant; returns the list of its calls."""
    calls = []

    def fake(image, num_gaussians, steps, **settings):
        calls.append((image.shape, num_gaussians, steps, settings))
        gaussians = gi.Cholesky(
            means=jnp.full((num_gaussians, 2), 10.0),
            cholesky=jnp.tile(jnp.array([5.0, 0.0, 5.0]), (num_gaussians, 1)),
            colors=jnp.full((num_gaussians, image.shape[2]), 0.1),
        )
        history = {"step": np.arange(steps), "psnr": np.linspace(10, 20, steps)}
        return FakeResult(gaussians, 20.0, history, 0.1)

    monkeypatch.setattr(gi, "fit", fake, raising=False)
    return calls


@pytest.fixture
def settings(tmp_path):
    """Two pictures and a configuration for them."""
    (tmp_path / "in").mkdir()
    images.save_image(tmp_path / "in" / "color.png", PHOTO)
    images.save_image(tmp_path / "in" / "grey.png", PHOTO[..., :1])
    return fit.Config(
        images=f"{tmp_path}/in/*",
        workdir=f"{tmp_path}/out",
        num_gaussians=5,
        steps=3,
    )


def test_writes_a_folder_per_picture_and_a_summary(fits, settings, tmp_path, capsys):
    assert run(settings) == 0
    assert [(shape, n, steps) for shape, n, steps, _ in fits] == [
        ((33, 41, 3), 5, 3),
        ((33, 41, 1), 5, 3),
    ]
    folder = tmp_path / "out" / "color"
    assert sorted(path.name for path in folder.iterdir()) == [
        "convergence.png",
        "gaussians.npz",
        "metrics.json",
        "picture.png",
    ]
    with np.load(folder / "gaussians.npz") as arrays:
        assert gi.Cholesky(**arrays).colors.shape == (5, 3)
    picture = images.load_image(folder / "picture.png")
    written = json.loads((folder / "metrics.json").read_text())
    expected = metrics.ms_ssim(picture, PHOTO / np.float32(255))
    np.testing.assert_allclose(written["ms_ssim"], expected, rtol=1e-4)
    assert written["config"]["steps"] == 3
    assert (written["height"], written["width"], written["channels"]) == (33, 41, 3)
    assert {"psnr", "seconds", "num_gaussians", "device", "versions"} <= set(written)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["picture"] for row in summary["pictures"]] == ["color", "grey"]
    assert summary["mean"]["psnr"] == 20
    assert not (tmp_path / "out" / "failures.json").exists()
    progress, table = capsys.readouterr().out.split("| picture", 1)
    assert re.fullmatch(
        r"1/2 color: \d+\.\d s, \d\d:\d\d left\n2/2 grey: \d+\.\d s, 00:00 left\n",
        progress,
    )
    assert "| grey | 20.00 |" in table
    assert (tmp_path / "out" / "summary.md").read_text() in f"| picture{table}"


def test_finished_pictures_are_skipped(fits, settings, tmp_path):
    run(settings)
    summary = (tmp_path / "out" / "summary.json").read_text()
    run(settings)
    assert len(fits) == 2
    assert (tmp_path / "out" / "summary.json").read_text() == summary
    (tmp_path / "out" / "grey" / "metrics.json").unlink()  # It was interrupted.
    run(settings)
    assert len(fits) == 3
    images.save_image(tmp_path / "in" / "grey.png", PHOTO[..., 1:2])  # Other pixels.
    run(settings)
    assert len(fits) == 4
    run(dataclasses.replace(settings, seed=1))
    assert len(fits) == 6


def test_broken_results_are_made_anew(fits, settings, tmp_path):
    run(settings)
    file = tmp_path / "out" / "grey" / "metrics.json"
    whole = file.read_text()
    for text in ("", whole[:50], "[]", "{}"):
        file.write_text(text)
        assert run(settings) == 0
        assert json.loads(file.read_text()) == json.loads(whole)
    assert len(fits) == 2 + 4


def test_one_bad_picture_fails_alone(fits, settings, tmp_path, capsys):
    (tmp_path / "in" / "bad.png").write_bytes(b"not a picture")
    assert run(settings) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("bad: ValueError: ")
    assert "3/3 grey" in captured.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert list(failures) == ["bad"] and "bad.png" in failures["bad"]
    assert len(summary["pictures"]) == 2


def test_equal_pictures_are_valid_json(fits, settings, tmp_path, monkeypatch):
    exact = fit.gi.fit

    def perfect(*args, **settings):
        return exact(*args, **settings)._replace(psnr=np.inf)

    monkeypatch.setattr(gi, "fit", perfect)
    assert run(settings) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["mean"]["psnr"] is None


def test_pictures_that_cannot_be_told_apart(fits, settings, tmp_path):
    images.save_image(tmp_path / "in" / "grey.bmp", PHOTO)
    with pytest.raises(ValueError, match="two pictures of the same name: grey"):
        run(settings)
    (tmp_path / "in" / "grey.bmp").rename(tmp_path / os.fsdecode(b"in/\xff.bmp"))
    with pytest.raises(ValueError, match=r"names that are not UTF-8: .*udcff\.bmp"):
        run(settings)
    with pytest.raises(ValueError, match="no file matches"):
        run(dataclasses.replace(settings, images=f"{tmp_path}/nothing/*.png"))
    assert fits == []


def test_no_metrics_without_everything_else(fits, settings, tmp_path, monkeypatch):
    """A picture counts as finished only when all its files are there."""
    run(settings)

    def full(results):
        raise OSError("disk full")

    monkeypatch.setattr(plots, "convergence", full)
    assert run(dataclasses.replace(settings, steps=4)) == 2
    assert not list(tmp_path.glob("out/*/metrics.json"))


@dataclasses.dataclass(frozen=True)
class Example:
    path: str = config.setting(help="a path")
    count: int = config.setting(3, help="a number")
    rate: float | None = config.setting(None, help="a rate")
    mode: Literal["a", "b"] = config.setting("a", help="a mode")
    quick: bool = config.setting(False, help="or not")

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count: expected at least 1, got {self.count}")


def _parsed(cls, *args):
    values = flags.FlagValues()
    config.define_flags(cls, values)
    values(["program", *args])
    return config.from_flags(cls, values)


def test_flags_from_a_dataclass():
    assert _parsed(Example, "--path=x") == Example("x")
    everything = ["--path=x", "--count=4", "--rate=0.5", "--mode=b", "--quick"]
    assert _parsed(Example, *everything) == Example("x", 4, 0.5, "b", True)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ([], flags.IllegalFlagValueError, "path"),
        (["--path=x", "--count=many"], flags.IllegalFlagValueError, "many"),
        (["--path=x", "--mode=c"], flags.IllegalFlagValueError, "a|b"),
        (["--path=x", "--size=1"], flags.UnrecognizedFlagError, "size"),
        (["--path=x", "--count=0"], app.UsageError, "count: expected at least 1"),
    ],
)
def test_bad_flags(args, error, message):
    with pytest.raises(error, match=message):
        _parsed(Example, *args)


def test_a_field_that_no_flag_takes():
    field = "x", dict, config.setting(None, help="")
    wrong = dataclasses.make_dataclass("Wrong", [field])
    with pytest.raises(ValueError, match="x: no flag takes a <class 'dict'>"):
        config.define_flags(wrong, flags.FlagValues())


def test_fingerprint_is_of_the_values():
    assert config.fingerprint({"a": 1, "b": "x"}) == config.fingerprint(
        {"b": "x", "a": 1}
    )
    assert config.fingerprint({"a": 1}) != config.fingerprint({"a": 2})


def test_the_real_loop(settings, tmp_path):
    (tmp_path / "in" / "grey.png").unlink()
    assert run(dataclasses.replace(settings, num_gaussians=60, steps=1)) == 0
    folder = tmp_path / "out" / "color"
    written = json.loads((folder / "metrics.json").read_text())
    picture = images.load_image(folder / "picture.png")
    psnr = metrics.psnr(picture, PHOTO / np.float32(255))
    np.testing.assert_allclose(written["psnr"], psnr, atol=1e-3)
    assert written["num_gaussians"] <= 60


def test_the_real_command(tmp_path):
    def command(*args):
        return subprocess.run(
            [sys.executable, "-m", "experiments.fit", f"--workdir={tmp_path}", *args],
            capture_output=True,
            text=True,
        )

    nothing = command(f"--images={tmp_path}/*.png")
    assert nothing.returncode == 1
    assert nothing.stderr.endswith(f"images: no file matches '{tmp_path}/*.png'\n")
    assert "--num_gaussians: Gaussians per picture" in nothing.stderr
    (tmp_path / "bad.png").touch()
    bad = command(f"--images={tmp_path}/*.png")
    assert bad.returncode == 1
    assert "bad.png: expected a picture file" in bad.stderr
    assert "Traceback" not in bad.stderr
