"""Table 1 at the size of a stamp: points, files, reruns, what is reported."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gi_jax as gi
from experiments import measure, representation, runner
from gi_jax import images, metrics
from tests.helpers import photo, stamp

SIZE = (24, 32)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A photo, and a configuration for it that compiles quickly."""
    return representation.Config(
        **stamp(tmp_path, SIZE, monkeypatch),
        num_gaussians="30,20",
        presets="paper,fast",
        steps="10",
        repeats=2,
    )


@pytest.fixture
def fits(monkeypatch):
    """Replaces `gi.fit` by the paper's start; returns the list of its calls."""
    calls = []

    def start(image, num_gaussians, steps, *, preset, seed, progress):
        del progress
        calls.append((num_gaussians, preset, steps))
        gaussians = gi.random(jax.random.key(seed), num_gaussians, image.shape[:2], 3)
        picture = gi.rasterize(gaussians, image.shape[:2])
        psnr = float(metrics.psnr(metrics.round_to_8_bits(picture), image))
        history = {"step": np.arange(steps), "psnr": np.full(steps, psnr)}
        return gi.FitResult(gaussians, psnr, history, 1.5, None)

    monkeypatch.setattr(gi, "fit", start)
    return calls


def test_warm_fits_are_the_second_ones(fits, config, tmp_path):
    config = dataclasses.replace(config, num_gaussians="20", warm_up=True)
    assert runner.run(representation.EXPERIMENT, config) == 0
    once = [(20, "paper", 10), (20, "fast", 10)]
    assert fits == [fit for fit in once for _ in range(2)]


def test_all_points_are_measured_once(fits, config, tmp_path, capsys):
    assert runner.run(representation.EXPERIMENT, config) == 0
    kinds = [(n, preset, 10) for n in (20, 30) for preset in ("paper", "fast")]
    assert fits == kinds  # From small to large: a peak of memory is that of the last.
    file = tmp_path / "out/stamp/metrics.json"
    result = json.loads(file.read_text())
    for point, (count, preset, steps) in zip(result["points"], kinds, strict=True):
        folder = tmp_path / f"out/stamp/{preset}-{count}-{steps}"
        names = sorted(path.name for path in folder.iterdir())
        written = ["convergence.png", "fit.json", "gaussians.npz", "picture.png"]
        assert names == written
        picture = images.load_image(folder / "picture.png")
        psnr = metrics.psnr(picture, photo(*SIZE))
        np.testing.assert_allclose(point["psnr"], psnr, atol=1e-2)
        assert (point["num_gaussians"], point["parameters"]) == (count, 8 * count)
        assert point["seconds"] == 1.5 and point["frames_per_second"] > 1
        assert point["memory_bytes"] > 4 * (3 * 24 * 32 + 8 * count)
        assert point["memory_is"] in ("XLA", "device")

    out = capsys.readouterr().out
    assert "| paper, published (V100) | 70,000 | 50,000 | 24 | 44.08 | 0.9985 |" in out
    row = f"| fast | 20 | 10 | 1 | {result['points'][1]['psnr']:.2f} |"
    assert row in out
    assert (tmp_path / "out/psnr.png").stat().st_size > 0

    fits.clear()
    assert runner.run(representation.EXPERIMENT, config) == 0
    assert fits == [] and json.loads(file.read_text()) == result
    file.unlink()  # It was killed in the second fit.
    (tmp_path / "out/stamp/fast-20-10/fit.json").unlink()
    assert runner.run(representation.EXPERIMENT, config) == 0
    assert fits == kinds[1:2]


def test_results_of_a_sweep_are_rows_of_one_table(config, tmp_path):
    def result(picture, count, psnr):
        point = dict.fromkeys(representation._QUANTITIES, 1.0) | {"psnr": psnr}
        point |= {"preset": "fast", "num_gaussians": count, "steps": 10}
        point |= {"memory_bytes": 1, "memory_is": "XLA"}
        return {"picture": picture, "device": "cpu", "points": [point]}

    results = [result("a", 20, 20.0), result("b", 20, 22.0), result("a", 30, 25.0)]
    (tmp_path / "out").mkdir()
    text = representation.summarize(results, config, tmp_path / "out")
    assert "| fast | 20 | 10 | 2 | 21.00 |" in text
    assert "| fast | 30 | 10 | 1 | 25.00 |" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_gaussians": "3,x"}, "num_gaussians: expected integers"),
        ({"num_gaussians": "50,50"}, "num_gaussians: expected each once"),
        ({"presets": "fast,slow"}, "presets: expected some of fast,paper"),
        ({"presets": ""}, "presets: expected some of"),
        ({"steps": "0"}, "steps: expected at least 1"),
        ({"repeats": 0}, "repeats: expected at least 1, got 0"),
        ({"crop": "all"}, "crop: expected ROWS,COLUMNS"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        representation.Config(images="x", workdir="y", **flags)


def test_a_peak_is_that_of_a_context_only_where_it_rose(monkeypatch):
    peaks = iter([100, 300, 300, 300])
    monkeypatch.setattr(measure, "_peak_bytes", lambda: next(peaks))
    with measure.peak_memory() as first:
        pass
    with measure.peak_memory() as second:
        pass
    assert (first.bytes, second.bytes) == (300, None)


def test_no_mean_is_of_two_kinds_of_memory():
    kind = {"preset": "fast", "num_gaussians": 5, "steps": 3}
    values = dict.fromkeys(representation._QUANTITIES, 1.0)
    memories = [(700, "device"), (20, "XLA"), (900, "device")]
    points = [
        kind | values | {"memory_bytes": size, "memory_is": what}
        for size, what in memories
    ]
    row = representation._mean_row(kind, points)
    assert (row["memory_bytes"], row["memory_is"]) == (800, "device")
    row = representation._mean_row(kind, points[1:2])
    assert (row["memory_bytes"], row["memory_is"]) == (20, "XLA")


def test_seconds_of_compilations_are_counted():
    with measure.count_compilations() as compilations:
        jax.jit(lambda x: jnp.sin(x) + 12.25)(1.0)
    assert compilations.count >= 1 and compilations.seconds > 0
