"""Tests of experiments/report.py and what it is made of."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gi_jax as gi
from experiments import anchors, contact, found, page, report
from gi_jax.images import save_image, to_uint8
from tests import results
from tests.helpers import photo

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
HOSTILE = 'a<b>&"x"|_y_ ](http://evil) \' <script>alert(1)</script> $x$'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of all kinds: good ones, broken ones, unknown ones, those twice there."""
    root = tmp_path_factory.mktemp("results")
    (root / "rd").mkdir()
    results.compressed(root / "rd")
    for count, psnr in (5, 20.0), (50, 25.0):
        for name, loss in ("p", 0.0), (HOSTILE, 1.0):
            place = root / "sweep" / name / f"num_gaussians={count}"
            results.fitted(place, name, num_gaussians=count, psnr=psnr - loss)
    shutil.copytree(root / "sweep" / "p", root / "copy" / "p")
    for name, text in [
        ("half", '{"picture": "x", "con'),
        ("list", "[1]"),
        ("without", '{"picture": "x", "config": {}}'),
        ("points", '{"picture": "x", "fingerprint": "y", "config": {}, "points": [1]}'),
        ("deep", "[" * 100_000),
    ]:
        (root / "broken" / name).mkdir(parents=True)
        (root / "broken" / name / "metrics.json").write_text(text)
    other = {"picture": HOSTILE, "fingerprint": "z", "config": {HOSTILE: HOSTILE}}
    (root / "other").mkdir()
    (root / "other" / "metrics.json").write_text(json.dumps(other | {"psnr": 3.25}))
    return root


@pytest.fixture(scope="module")
def written(folder):
    config = report.Config(output=f"{folder}/new/all.html", range="0.01,9", side=64)
    return report.run([folder], config)


class Page(html.parser.HTMLParser):
    """Checks that what is opened is closed, and collects what is seen."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_is_whole_and_needs_nothing_else(written):
    seen = Page(written.read_text())
    tags = {tag for tag, _ in seen.tags}
    assert not tags & {"script", "iframe", "object", "form", "b"}
    for tag, attrs in seen.tags:
        for name in {"src", "srcset", "href", "style", "action"} & set(attrs):
            assert attrs[name].startswith("#s" if tag == "a" else "data:")
        assert not any(name.startswith("on") for name in attrs)
    assert "url(" not in written.read_text() and "@import" not in written.read_text()
    places = {attrs["id"] for attrs in seen.all("section")}
    assert {attrs["href"] for attrs in seen.all("a")} == {f"#{p}" for p in places}
    assert len(seen.all("a")) == len(seen.all("section"))
    policy = {attrs.get("content") for attrs in seen.all("meta")}
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy


def test_its_pictures_are_there_and_said_in_words(written):
    pictures = Page(written.read_text()).all("img")
    # Ours, its original, errors; two fits each of two pictures; 5 plots; 2 ellipses.
    assert len(pictures) == 3 + 4 + 5 + 2
    for attrs in pictures:
        kind, _, data = attrs["src"].partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert Image.MIME[image.format] == kind.removeprefix("data:")
            assert image.size == (int(attrs["width"]), int(attrs["height"]))
            image.load()
        assert len(attrs["alt"]) > 5
    alts = [attrs["alt"] for attrs in pictures]
    for what in ("original", "ours, 0.2.gi", "errors of ours, 0.2.gi"):
        assert any(alt.startswith(f"noise, {what}") for alt in alts)
    assert sum("the Gaussians of" in alt for alt in alts) == 2
    assert sum("Convergence" in alt for alt in alts) == 2


def test_it_says_what_was_measured(written, folder):
    text = " ".join(Page(written.read_text()).text.split())
    assert "fit 2 4 cpu" in text and "compression 1 1 cpu" in text
    assert "num_gaussians = 50" in text and "4 of 4 results" in text
    assert "50 2 24.5 0.9 0.5" in text  # Means over two pictures, no copies.
    assert "gaussians, D = 0.4" in text and "Bits per Gaussian" in text
    assert text.count(HOSTILE) >= 3  # As it is, not obeyed.
    assert "3.25" in text
    for name in ("half", "list", "without", "points", "deep"):
        assert f"{folder}/broken/{name}/metrics.json: " in text
    as_markdown = written.with_suffix(".md").read_text()
    assert "# Pictures made of 2D Gaussians: results" in as_markdown
    assert "| 50 | 2 | 24.5 | 0.9 | 0.5 |" in as_markdown
    assert "<script>" not in as_markdown.replace(r"\<script\>", "")


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_a_browser_shows_it(written, tmp_path):
    # The page forbids scripts: the only one is of a copy that is asked about itself.
    question = (
        "<script>onload = () => { const all = [...document.images]; document.title = "
        "JSON.stringify([all.length, all.filter(i => i.complete && i.naturalWidth > 0)"
        ".length, document.documentElement.scrollWidth <= innerWidth, performance."
        "getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length])"
        "}</script></head>"
    )
    text = written.read_text()
    asked = text.replace("default-src", "script-src 'unsafe-inline'; default-src")
    (tmp_path / "asked.html").write_text(asked.replace("</head>", question))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"]
    options += ["--enable-logging=stderr", "--timeout=20000", "--dump-dom"]

    def shown(file):
        done = subprocess.run(
            [BROWSER, *options, file.as_uri()],
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert "CONSOLE" not in done.stderr
        return done.stdout

    title = shown(tmp_path / "asked.html").partition("<title>")[2].partition("<")[0]
    count, loaded, fits, requests = json.loads(title)
    assert count == loaded == text.count("<img ") > 0
    assert fits and requests == 0
    assert shown(written).count("<img ") == count


def test_where_there_is_nothing_to_report(tmp_path, folder):
    config = report.Config()
    with pytest.raises(ValueError, match=r"no finished metrics\.json below .*"):
        report.run([tmp_path], config)
    with pytest.raises(ValueError, match=r"only broken ones: .*half"):
        report.run([folder / "broken"], config)
    with pytest.raises(ValueError, match=r"expected a folder, got .*nothing"):
        report.run([tmp_path / "nothing"], config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pictures": -1}, "pictures: expected at least 0"),
        ({"side": 1}, "side: expected at least 16"),
        ({"output": "report.pdf"}, r"output: expected a name in \.html"),
        ({"range": "2,1"}, "range: expected LOW,HIGH"),
        ({"published": "/nothing"}, "published: /nothing: expected JSON"),
    ],
)
def test_impossible_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        report.Config(**setting)


def test_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("report: no finished metrics.json below ")


def run_of(picture, config, result=None, folder=Path("f")):
    known = {"picture": picture, "fingerprint": f"{picture}{config}", "config": config}
    return found.Run("fit", folder, known | (result or {}))


def test_groups_are_of_the_same_settings():
    runs = [
        run_of("a", {"steps": 1, "pixels": "x"}),
        run_of("b", {"steps": 1, "pixels": "y"}),
        run_of("a", {"steps": 1, "pixels": "x"}, folder=Path("copy")),
        run_of("a", {"steps": 1, "pixels": "z"}, folder=Path("g")),
        run_of("a", {"steps": 10, "pixels": "x"}),
    ]
    one, two = found.group([runs[-1], *runs])
    assert [group.settings["steps"] for group in (one, two)] == [1, 10]
    assert [run.result["picture"] for run in one.runs] == ["a (f)", "b", "a (g)"]
    assert found.differing([one, two]) == ["steps"] and len(two.runs) == 1


def test_originals_are_known_by_their_pixels(tmp_path):
    image = photo(40, 48)
    save_image(tmp_path / "a.png", image)
    save_image(tmp_path / "a.bmp", image[::-1])
    files = sorted(tmp_path.iterdir())
    for crop, part in (None, image), ("1:30,2:20", image[1:30, 2:20]):
        pixels = hashlib.sha256(part.tobytes()).hexdigest()
        run = run_of("a", {"pixels": pixels, "crop": crop})
        expected = np.rint(255 * part)
        np.testing.assert_array_equal(contact.find_original(run, files), expected)
        assert contact.find_original(run, files[:1]) is None
        said = run_of("a", run.result["config"], {"source": str(tmp_path / "a.png")})
        assert contact.find_original(said, []) is not None


def test_jpeg_of_no_more_bytes():
    pixels = to_uint8(photo())
    sizes = [len(anchors.encode(contact.JPEG, pixels, q)) for q in (20, 50, 51)]
    for num_bytes, size in (sizes[1], sizes[1]), (sizes[2] - 1, sizes[1]):
        ((name, picture),) = contact.jpeg_of_at_most(pixels, num_bytes)
        assert name == f"jpeg 4:2:0: {size:,} bytes"
        assert 20 < gi.psnr(picture / 255, pixels / 255) < 50
    assert contact.jpeg_of_at_most(pixels, 100) == []


def test_small_pictures_are_enlarged_and_large_ones_are_not():
    dots = np.random.default_rng(0).integers(0, 256, (4, 10, 3), np.uint8)
    assert page.from_pixels(dots, "", "", 35).size == (12, 30)
    large = np.zeros((100, 50), np.uint8)
    assert page.from_pixels(large, "", "", 20).size == (20, 10)


def test_names_that_are_not_text():
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    section = page.Section(name, 2, [f"{name} **here**"])
    assert rb"\udcff.png" in page.to_html(name, [section])
    assert rb"\udcff.png" in page.to_markdown(name, [section])


def test_settings_of_another_version_are_still_shown(folder, tmp_path, capsys):
    place = results.fitted(tmp_path / "p", "p", num_gaussians=5, psnr=20.0)
    file = place / "metrics.json"
    result = json.loads(file.read_text())
    del result["seconds"]
    file.write_text(json.dumps(result))
    config = dataclasses.replace(report.Config(), pictures=0)
    text = report.run([tmp_path], config).read_text()
    assert "Could not be summarized: KeyError('seconds')" in Page(text).text
    assert "KeyError" in capsys.readouterr().err
    assert "0 of 1 results" in text


def test_hostile_values_are_named(tmp_path, capsys):
    place = results.fitted(tmp_path / "p", "p", num_gaussians=5, psnr=20.0)
    (place / "gaussians.npz").write_bytes(b"")
    (place / "picture.png").write_bytes(b"")
    file = place / "metrics.json"
    result = json.loads(file.read_text())
    result |= {"history": "x", "source": [], "psnr": {}, "points": [{"history": 3}]}
    result["config"] |= {"crop": 3, "steps": [HOSTILE]}
    file.write_text(json.dumps(result))
    seen = Page(report.run([tmp_path], report.Config()).read_text())
    for what in (
        "Could not be summarized",
        "No convergence",
        f"No pictures of {place}",
    ):
        assert f"{what}: " in seen.text
    assert "Traceback" not in capsys.readouterr().err
