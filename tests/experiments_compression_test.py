"""Tests of experiments/compression.py, rate_distortion.py and markdown.py."""

import dataclasses
import json
from pathlib import Path

import markdown_it
import numpy as np
import pytest

import gi_jax as gi
from experiments import compression, markdown
from experiments import rate_distortion as rd
from gi_jax.images import load_image
from tests import results
from tests.helpers import KODAK


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return results.compressed(tmp_path_factory.mktemp("compression"))


def metrics(workdir):
    return json.loads((workdir / "noise" / "metrics.json").read_text())


def test_each_file_is_measured(workdir):
    folder, original = workdir / "noise", results.picture()
    points = metrics(workdir)["points"]
    ours = [point for point in points if point["codec"] == rd.OURS]
    assert [point["setting"] for point in ours] == [0.2, 0.4]
    for point in ours:
        data = (folder / point["file"]).read_bytes()
        assert data == results.file_at(point["setting"])
        assert (point["bytes"], point["bpp"]) == (len(data), len(data) / 240)
        psnr = gi.psnr(gi.decode(data) / 255.0, original / 255.0)
        np.testing.assert_allclose(point["psnr"], psnr, rtol=1e-5)
        assert point["num_gaussians"] == gi.file_info(data).num_gaussians
        # Heads and the coder's rounding are the rest of it.
        bits = point["num_gaussians"] * sum(point["bits"].values())
        assert 0.5 * len(data) < bits / 8 < len(data)
        assert point["warm_decode_seconds"] > 0 and point["decode_seconds"] > 0
        assert point["encode_seconds"] == point["warm_encode_seconds"]
    assert {point["codec"] for point in points} == {rd.OURS, "jpeg 4:2:0"}
    assert load_image(folder / "contact.png").shape[2] == 4


def test_what_is_done_is_not_done_again(workdir):
    config = results.compression_config(workdir.parent)
    before = metrics(workdir)
    path = Path(config.images).parent / "noise.png"
    with results.quick_encoder() as asked:
        again = compression.run_picture(path, workdir / "noise", config)
    assert again == before and asked == []
    assert metrics(workdir) == before


def test_a_run_that_was_killed_encodes_what_it_had_not(workdir):
    config = results.compression_config(workdir.parent)
    before, folder = metrics(workdir), workdir / "noise"
    (folder / "metrics.json").unlink()
    (folder / "0.4.gi").unlink()
    path = Path(config.images).parent / "noise.png"
    with results.quick_encoder() as asked:
        again = compression.run_picture(path, folder, config)
    assert asked == [0.4]
    assert [p["bytes"] for p in again["points"]] == [
        p["bytes"] for p in before["points"]
    ]


def test_other_settings_are_other_results(workdir):
    config = results.compression_config(workdir.parent)
    pixels = results.picture()
    same = dataclasses.replace(config, range="0,1", workdir="elsewhere")
    other = dataclasses.replace(config, paper="100")
    without = compression.settings_of(config, pixels)
    assert compression.settings_of(same, pixels) == without
    assert compression.settings_of(other, pixels) == without | {"paper": "100"}


def test_the_summary_has_all_tables(workdir):
    published = workdir / "published.json"
    entry = {"bpp": [2, 1], "psnr_db": [30, 20.5], "reference": "a|b"}
    published.write_text(json.dumps({"codecs": {"COIN <1>": entry}}))
    config = results.compression_config(workdir.parent, published=str(published))
    text = compression.summarize([metrics(workdir)], config, workdir)
    assert text == (workdir / "summary.md").read_text()
    assert "| mean | " in text and "| gaussians, D = 0.4 | " in text
    assert r"| COIN \<1\> | 1.000: 20.50, 2.000: 30.00 | a\|b |" in text
    assert "Published, not measured here" in text
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["config"]["steps"] == "0.2,0.4"
    for name in "rates.png", "means.png":
        assert load_image(workdir / name).shape[0] > 100


def test_the_published_points():
    path = KODAK.parent / "kodak_published_rd.json"
    if not path.exists():
        pytest.skip(f"the published points are not in {path}")
    entries = rd.published(path)
    assert {"COIN", "COIN++", "JPEG", "GaussianImage"} <= set(entries)
    for entry in entries.values():
        assert list(entry["bpp"]) == sorted(entry["bpp"]) and entry["reference"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"codecs": {"a": {"bpp": [1]}}}', '{"codecs": {"a": 3}}']
)
def test_published_points_that_are_none(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=r"published: .*p\.json: expected JSON with"):
        rd.published(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": "a"}, "steps: expected numbers"),
        ({"steps": "nan"}, "steps: expected numbers"),
        ({"steps": "0.1,0.1"}, "steps: expected each once"),
        ({"steps": "0.1,0.10000001"}, "steps: expected numbers over 0 that differ"),
        ({"steps": "-1"}, "steps: expected numbers over 0"),
        ({"effort": 0}, "effort: expected 1 to 9, got 0"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"range": "1"}, "range: expected LOW,HIGH"),
        ({"range": "1,0.5"}, "range: expected LOW,HIGH, in this order"),
        ({"others": "gif"}, "others: expected some of jpeg 4:2:0,.* got 'gif'"),
        ({"others": "webp,webp"}, "others: expected each once"),
        ({"paper": "1.5"}, "paper: expected integers"),
        ({"paper": "inf"}, "paper: expected integers"),
        ({"published": "/nothing"}, "published: /nothing: expected JSON"),
    ],
)
def test_impossible_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        compression.Config(images="", workdir="", **setting)


def points(codec, rates, qualities, **values):
    return [
        {"codec": codec, "setting": i, "bytes": round(1e4 * rate), "bpp": rate}
        | {"psnr": quality, "ms_ssim": 1 - 10 ** (-quality / 10)}
        | {"encode_seconds": 2.0, "decode_seconds": 0.5}
        | values
        for i, (rate, quality) in enumerate(zip(rates, qualities))
    ]


RATES = np.array([0.1, 0.2, 0.4, 0.8])
LEVELS = 30 + 5 * np.log10(RATES)


@pytest.mark.parametrize("quality", ["psnr", "ms_ssim"])
@pytest.mark.parametrize("ours", [4, 2])
def test_bjontegaard_deltas_of_shifted_curves(quality, ours):
    theirs = points("b", RATES, LEVELS)
    fewer = points("a", 0.9 * RATES[:ours], LEVELS[:ours])
    better = points("a", RATES[:ours], LEVELS[:ours] + 0.5)
    rate = rd.bjontegaard_deltas(theirs, fewer, quality)["rate"]
    np.testing.assert_allclose(rate, -10, atol=1e-6)
    gain = rd.bjontegaard_deltas(theirs, better, quality)["quality"]
    np.testing.assert_allclose(gain, 0.5, atol=1e-6)


def test_curves_that_cannot_be_compared():
    nothing = {"rate": None, "quality": None}
    ours = points("a", RATES, LEVELS)
    assert rd.bjontegaard_deltas(ours[:1], ours, "psnr") == nothing
    far = points("b", 100 * RATES, LEVELS + 100)
    assert rd.bjontegaard_deltas(far, ours, "psnr") == nothing
    equal = points("b", RATES, LEVELS, ms_ssim=1.0)
    assert rd.bjontegaard_deltas(equal, ours, "ms_ssim") == nothing


def test_curves_rise():
    dents = points("a", [0.4, 0.1, 0.2, 0.2, 0.3], [33, 30, 29, 31, 32])
    dents[-1]["psnr"] = None  # Equal pictures.
    curve = rd.curve({"points": dents}, "a")
    assert [(p["bpp"], p["psnr"]) for p in curve] == [(0.1, 30), (0.2, 31), (0.4, 33)]


def test_files_of_like_rates():
    ours = points(rd.OURS, [0.1, 0.4], [30, 33], warm_decode_seconds=0.1)
    result = {"points": ours + points("b", [0.09, 0.12, 0.9], [27, 28, 35])}
    at_first = rd.at_like_rates([result, result], 0)
    assert [(row["codec"], row["bpp"]) for row in at_first] == [
        (rd.OURS, 0.1),
        ("b", 0.09),
    ]
    assert at_first[0]["decodes_per_second"] == pytest.approx(10)
    assert at_first[0]["decode_warm"] and not at_first[0]["encode_warm"]
    assert at_first[1]["decodes_per_second"] == 2 and not at_first[1]["decode_warm"]
    assert [row["codec"] for row in rd.at_like_rates([result], 1)] == [rd.OURS]
    best = rd.at_no_more_bytes(result["points"])
    assert [(p["codec"], p["bpp"]) for p in best] == [(rd.OURS, 0.4), ("b", 0.12)]


def test_means_are_of_settings_that_all_have():
    first = {"points": points("a", [0.1, 0.4], [30, 33])}
    second = {"points": points("a", [0.3], [31])}
    (mean,) = rd.means([first, second], "a")
    assert (mean["bpp"], mean["psnr"]) == (0.2, 30.5)
    assert len(rd.means([first], "a")) == 2 and rd.means([first, second], "b") == []


@pytest.mark.parametrize(
    "text",
    ["a_b_", "*x* **y**", "`c`", "<b>&amp;", "[x](http://y)", "![x](y)", "a|b", r"\|"],
)
def test_literal_text_is_shown_as_it_is(text):
    html = markdown_it.MarkdownIt("commonmark").enable("table").render
    shown = html(markdown.literal(text))
    parsed = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
    assert parsed.replace("&amp;", "&") == f"<p>{text}</p>\n"
    in_table = html(markdown.table(["a"], [[markdown.literal(text)], [None]]))
    assert in_table.count("<td>") == 2 and "<td>–</td>" in in_table


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (0.012345, "0.0123"), (99.6, "99.6")]
)
def test_numbers(value, text):
    assert markdown.significant(value) == text
    assert markdown.fixed(None, 2) is None and markdown.signed(1, 1, " %") == "+1.0 %"
