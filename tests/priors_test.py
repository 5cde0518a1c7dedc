"""Priors of codec 4, learned from files."""

import dataclasses

import numpy as np
import pytest

from experiments import priors
from gi_jax.coding.adaptive_coding import INCREMENT
from gi_jax.coding.priors import load_priors
from gi_jax.coding.sensitivity import Symbols
from gi_jax.coding.sensitivity_codec import write_symbols
from tests.helpers import random_symbols
from tests.sensitivity_codec_test import GOLDEN

SIZE = (90, 130)  # H, W


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of two pictures; their Gaussians are alike."""
    folder = tmp_path_factory.mktemp("files")
    one = random_symbols(40, 3, SIZE)
    for name in "a", "b":
        (folder / name).mkdir()
        for count in 10, 25:
            many = Symbols(*(np.repeat(field, count, axis=0) for field in one))
            data = write_symbols(many, 0.3, np.zeros(3), SIZE)
            (folder / name / f"{count}.gi").write_bytes(data)
    return folder


def test_what_others_have_is_cheap(files, tmp_path):
    output = tmp_path / "priors.json"
    config = priors.Config(str(files / "*" / "*.gi"), str(output))
    *_, total = priors.run(config).splitlines()
    name, without, by_others = total.split()
    assert name == "all" and float(by_others) < 0.95 * float(without)
    samples = [priors.read_sample(path) for path in sorted(files.glob("*/*.gi"))]
    counts = [priors.code(sample, priors.no_priors())[1] for sample in samples]
    learned = priors.train(counts)
    assert output.read_text() == priors.to_json(learned)
    for table, flat in zip(learned, priors.no_priors()):
        assert table.shape == flat.shape and table.min() >= 1


def test_priors_are_worth_so_many_symbols_and_near_contexts_are_alike():
    counts = priors.no_priors()._asdict()
    counts = priors.Priors(**{k: np.zeros_like(v) for k, v in counts.items()})
    counts.first[3, 5] = 1000
    learned = priors.train([counts])
    worth = priors.WORTH * INCREMENT
    assert learned.first[:, 5].tolist() == [worth + 1] * len(counts.first)
    assert (learned.second == 1).all()


def test_the_text_is_what_the_format_reads():
    priors_of_format = load_priors()
    text = priors.Path(priors.__file__).parents[1] / "gi_jax/coding/priors.json"
    assert text.read_text() == priors.to_json(priors_of_format)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_any_number_of_channels_is_counted(channels):
    symbols = random_symbols(50, channels, SIZE)
    _, counts = priors.code(priors.Sample("a", symbols, SIZE), priors.no_priors())
    assert counts.first.sum() == 50
    assert counts.second.sum() == (50 if channels > 1 else 0)
    assert counts.other.sum() == 50 * max(0, channels - 2)


def test_pictures_of_other_channels_and_without_gaussians_are_described():
    sets = [random_symbols(20, 1, SIZE), random_symbols(20, 3, SIZE)]
    sets.append(Symbols(*(field[:0] for field in sets[0])))
    samples = [priors.Sample(str(i), s, SIZE) for i, s in enumerate(sets)]
    bits, _ = priors.measure(samples)
    assert "colour 2" in priors.describe(bits)


def test_other_files_are_refused(capsys):
    config = priors.Config("nowhere/*.gi")
    assert priors.main(config) == 1
    assert "files: nothing matches 'nowhere/*.gi'" in capsys.readouterr().err
    config = dataclasses.replace(config, files=str(GOLDEN / "cholesky.gi"))
    assert priors.main(config) == 1
    assert "cholesky.gi: expected codec 4, got 1" in capsys.readouterr().err
