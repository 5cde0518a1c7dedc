"""Tables 3 and 4 at the size of a stamp: all rows, files, reruns, what is reported."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import gi_jax as gi
from experiments import ablation_tables, ablations, runner, variants
from experiments.alpha_blending import OpaqueGaussians
from gi_jax import fit, images, metrics
from gi_jax.fitting.fit_step import QuantizerState
from tests.helpers import photo, stamp

SIZE = (24, 32)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A photo, and a configuration for it that compiles quickly."""
    return ablations.Config(
        **stamp(tmp_path, SIZE, monkeypatch),
        num_gaussians="20",
        steps=2,
        fine_tuning_steps=2,
        learning_rate=0.1,
        repeats=1,
    )


@pytest.fixture
def fits(monkeypatch):
    """Replaces `gi.fit` by what it starts from; returns the losses of its calls."""
    calls = []

    def start(image, num_gaussians=0, steps=0, *, recipe, initial=None, **settings):
        del num_gaussians, steps
        calls.append(settings.get("loss"))
        key, learned = jax.random.key(settings["seed"]), None
        if initial is None:
            initial = recipe.initialize(key, image, None)
        if "quantizer" in settings:
            params, state = settings["quantizer"].init(key, initial)
            learned = QuantizerState(params, state, None)
        picture = (recipe.render or gi.rasterize)(initial, image.shape[:2])
        psnr = float(metrics.psnr(metrics.round_to_8_bits(picture), image))
        history = {"step": np.arange(1), "psnr": np.array([psnr])}
        return gi.FitResult(initial, psnr, history, 1.0, learned)

    monkeypatch.setattr(gi, "fit", start)
    return calls


def _result(tmp_path):
    return json.loads((tmp_path / "out" / "stamp" / "metrics.json").read_text())


def test_rows_of_table_3(fits, config, tmp_path, capsys):
    assert runner.run(ablations.EXPERIMENT, config) == 0
    losses = ["l2", "l2", "l2", "l1", "ssim", "l1+ssim", "l2+ssim", "l2"]
    assert fits == losses
    result = _result(tmp_path)
    points = {point["row"]: point for point in result["points"]}
    assert [*points] == [*variants.VARIANTS]
    for row, point in points.items():
        picture = images.load_image(tmp_path / f"out/stamp/{row}-20/picture.png")
        psnr = metrics.psnr(picture, photo(*SIZE))
        np.testing.assert_allclose(point["psnr"], psnr, atol=1e-2)
        assert point["parameters"] == 20 * (8 + (row in ("alpha", "opacity")))
        assert point["frames_per_second"] > 0
    starts = {row: points[row]["psnr"] for row in ("base", "alpha", "opacity")}
    assert len({*starts.values()}) == 3 and points["l1"]["psnr"] == starts["base"]

    lines = {line.split(" | ")[0]: line for line in capsys.readouterr().out.split("\n")}
    blended = lines["| alpha blending"]
    assert "| 37.89 |" in blended and "| -0.68 |" in blended  # Published.
    assert f"| {starts['alpha'] - starts['base']:+.2f} |" in blended
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["published"]["l1+ssim"]["psnr"] == 36.57
    assert (tmp_path / "out" / "ablations.png").stat().st_size > 0

    fits.clear()
    assert runner.run(ablations.EXPERIMENT, config) == 0
    assert _result(tmp_path) == result and fits == []
    # A row that was finished is kept when the picture was not.
    (tmp_path / "out/stamp/metrics.json").unlink()
    (tmp_path / "out/stamp/ssim-20/row.json").unlink()
    assert runner.run(ablations.EXPERIMENT, config) == 0
    assert fits == ["ssim"]


def test_a_real_fit_by_alpha_blending(config, tmp_path, fits):
    config = dataclasses.replace(config, rows="alpha")
    runner.run(ablations.EXPERIMENT, config)
    start = _result(tmp_path)["points"][0]["psnr"]
    assert fits == ["l2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gi, "fit", fit)
        config = dataclasses.replace(config, steps=60, learning_rate=0.02)
        assert runner.run(ablations.EXPERIMENT, config) == 0
    (point,) = _result(tmp_path)["points"]
    picture = images.load_image(tmp_path / "out/stamp/alpha-20/picture.png")
    psnr = metrics.psnr(picture, photo(*SIZE))
    np.testing.assert_allclose(point["psnr"], psnr, atol=1e-2)
    assert point["psnr"] > start + 1


def test_rows_of_table_4(fits, config, tmp_path, capsys):
    rows = ["base", "uniform6"]
    config = dataclasses.replace(config, table="compression", rows=",".join(rows))
    assert runner.run(ablations.EXPERIMENT, config) == 0
    assert len(fits) == 3  # One fit, and fine-tuning from it for each row.
    points = _result(tmp_path)["points"]
    assert [point["row"] for point in points] == rows
    for point in points:
        folder = tmp_path / f"out/stamp/{point['row']}-20"
        data = (folder / "picture.gi").read_bytes()
        assert len(data) == point["file_bytes"]
        psnr = metrics.psnr(gi.decode(data) / np.float32(255), photo(*SIZE))
        np.testing.assert_allclose(point["psnr"], psnr, rtol=1e-6)
        estimated = point["row"].startswith("uniform")
        assert (point["bytes"] < point["file_bytes"]) == estimated
        assert point["rate_is"] == ("estimated" if estimated else "file")
    out = capsys.readouterr().out
    label = variants.CODINGS["uniform6"].label
    assert f"| {label} | – | – | -0.159 | +7.0 % |" in out
    assert runner.run(ablations.EXPERIMENT, config) == 0
    assert len(fits) == 3


def test_deltas_are_against_the_first_row():
    def points(row, factor):
        return [
            {"row": row, "num_gaussians": n, "bpp": factor * n, "bytes": n, "psnr": n}
            for n in (20, 25, 30)
        ]

    results = [
        {"picture": "a", "points": [*points("base", 1), *points("uniform6", 1.05)]},
        {"picture": "b", "points": points("base", 1)},  # One of two tasks of a sweep.
        {"picture": "b", "points": points("uniform6", 1.15)},
    ]
    deltas = ablation_tables.deltas(results)
    assert deltas["base"] == {"quality": 0, "rate": 0}
    np.testing.assert_allclose(deltas["uniform6"]["rate"], 10, atol=0.5)
    assert deltas["uniform6"]["quality"] < 0


def test_a_file_of_uniform_colours_holds_what_the_fit_saw():
    coding = "uniform8"
    rng = np.random.default_rng(0)
    gaussians = gi.random(jax.random.key(0), 50, SIZE, 3)
    gaussians = gaussians._replace(colors=rng.normal(size=(50, 3)).astype("f4"))
    quantizer = variants.quantizer(coding, SIZE, 3)
    params, state = quantizer.init(jax.random.key(1), gaussians)
    seen, *_ = quantizer.apply(params, state, gaussians, jax.random.key(2))
    learned = QuantizerState(params, state, None)
    data, redundant = variants.write_file(coding, gaussians, learned, SIZE)
    decoded = gi.read_gaussians(data).gaussians

    def rows(gaussians):
        table = np.concatenate([np.asarray(x) for x in gaussians], axis=1)
        return table[np.lexsort(table.T)]

    np.testing.assert_array_equal(rows(decoded), rows(seen))
    assert redundant == 4 * (3 * 256 * 3 - 2 * 3)


def test_variants_start_alike():
    key, image = jax.random.key(0), photo(*SIZE)
    start = {
        name: variants.recipe(name, 20, 5, 1e-3).initialize(key, image, None)
        for name in variants.VARIANTS
    }
    for gaussians in start.values():
        np.testing.assert_array_equal(gaussians.means, start["base"].means)
        np.testing.assert_array_equal(gaussians.colors, start["base"].colors)
    assert isinstance(start["alpha"], OpaqueGaussians)
    np.testing.assert_allclose(jax.nn.sigmoid(start["alpha"].opacity_logits), 0.1)
    scales = np.exp(start["rotation_scale"].log_scales)
    assert (scales >= 0.5).all() and (scales < 1.5).all()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rows": "alpha,beta"}, "rows: expected some of base,alpha,opacity"),
        ({"table": "compression", "rows": "alpha"}, "rows: expected some of base,no_c"),
        ({"num_gaussians": "0"}, "num_gaussians: expected at least 1"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number over 0"),
        ({"learning_rate": np.inf}, "learning_rate: expected a number over 0"),
        ({"rows": "l1,l1"}, "rows: expected each once"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"crop": "1:2"}, "crop: expected ROWS,COLUMNS"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises(ValueError, match=message):
        ablations.Config(images="x", workdir="y", **flags)
