r"""Learns the priors of codec 4 from files, and measures what they are worth.

    python -m experiments.priors --files='results/*/kodim*/*.gi'

Files in folders of one name are of one picture. For each picture the files are coded
again by priors of all other pictures, and by priors that know nothing: what is saved is
what a picture never seen would save. With --output the priors of all pictures are
written.

The numbers are part of the format: with others, files of before cannot be read.
"""

import dataclasses
import glob
import json
import sys
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.config import run_script, setting
from gi_jax.coding.adaptive_coding import INCREMENT, Encoder
from gi_jax.coding.bitstream import unpack
from gi_jax.coding.point_sets import BINS, CONTEXTS, SMALL
from gi_jax.coding.priors import Priors
from gi_jax.coding.sensitivity import Symbols
from gi_jax.coding.sensitivity_codec import SENSITIVITY_CODEC, read_contents
from gi_jax.coding.symbol_coding import code_symbols
from gi_jax.coding.symbol_models import (
    AFTER_FIRST,
    AFTER_GREY,
    AFTER_PREVIOUS,
    ANGLE_BINS,
    NUM_GROUPS,
    NUM_RING_TOKENS,
    NUM_TOKENS,
    RING_SIZES,
    RING_TOKENS,
    WIDE_GROUPS,
    SymbolModel,
)
from gi_jax.images import atomic_write

# Symbols that the prior of a context is worth; 16 to 256 are alike to 0.1 %.
WORTH: Final = 64

# Contexts of one order learn from those next to them by this much, so that those never
# seen are as the nearest ones.
_SHARE_OF_NEXT: Final = 0.02


@dataclasses.dataclass(frozen=True)
class Config:
    """What to learn from."""

    files: str = setting(help="pattern of .gi files; a folder for each picture")
    output: str | None = setting(None, help="JSON file of priors to write")


class Sample(NamedTuple):
    """The Gaussians of one file."""

    picture: str
    symbols: Symbols  # NumPy
    image_size: tuple[int, int]


def main(config: Config) -> int:
    """Runs what the command line says."""
    try:
        print(run(config))
    except (ValueError, OSError) as error:
        print(f"priors: {error}", file=sys.stderr)
        return 1
    return 0


def run(config: Config) -> str:
    """Measures priors, and writes those of all files; returns a table.

    Raises:
      ValueError: where there is no file, or one is not of this codec.
    """
    paths = [Path(name) for name in sorted(glob.glob(config.files, recursive=True))]
    if not paths:
        raise ValueError(f"files: nothing matches {config.files!r}")
    samples = [read_sample(path) for path in paths]
    bits, counts = measure(samples)
    if config.output:
        atomic_write(Path(config.output), to_json(train(counts)).encode())
    return describe(bits)


def read_sample(path: Path) -> Sample:
    """Reads the symbols of a file."""
    header, sections = unpack(path.read_bytes())
    if header.codec != SENSITIVITY_CODEC:
        codec = f"expected codec {SENSITIVITY_CODEC}, got {header.codec}"
        raise ValueError(f"{path}: {codec}")
    contents = read_contents(header, sections)
    size = header.height, header.width
    return Sample(path.parent.name, contents.symbols, size)


def no_priors() -> Priors:
    """Priors by which all symbols of a context are alike, and worth one symbol."""
    shapes = (
        (NUM_GROUPS, NUM_TOKENS),
        ((len(AFTER_FIRST) + 1) * (len(WIDE_GROUPS) + 1), NUM_TOKENS),
        ((len(AFTER_PREVIOUS) + 1) * (len(AFTER_GREY) + 1), NUM_TOKENS),
        (len(RING_TOKENS) * (len(RING_SIZES) + 1), NUM_RING_TOKENS),
        (2, ANGLE_BINS),
        (CONTEXTS * (SMALL + 1), SMALL + 1),
        (CONTEXTS, BINS),
    )
    return Priors(*(np.full(shape, max(1, INCREMENT // shape[1])) for shape in shapes))


def train(counts: list[Priors]) -> Priors:
    """Returns the priors of counts: the shares of symbols, worth WORTH of them."""
    total = Priors(*(np.sum(tables, axis=0) for tables in zip(*counts)))
    # Numbers of contexts in an order: groups; groups of a |k₀|; sizes of a class.
    ordered = {
        "first": NUM_GROUPS,
        "second": len(WIDE_GROUPS) + 1,
        "rings": len(RING_SIZES) + 1,
    }
    priors = {}
    for name, table in total._asdict().items():
        shares = table.astype(np.float64)
        if name in ordered:
            index = np.arange(ordered[name])
            weights = _SHARE_OF_NEXT ** np.abs(index[:, None] - index)
            rows = shares.reshape(-1, len(index), table.shape[1])
            shares = (weights @ rows).reshape(table.shape)
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
        priors[name] = 1 + np.rint(WORTH * INCREMENT * shares).astype(np.int64)
    return Priors(**priors)


def to_json(priors: Priors) -> str:
    """Returns the text of a file of priors, a context to a line."""
    tables = []
    for name, table in priors._asdict().items():
        rows = ",\n".join(json.dumps(row) for row in table.tolist())
        tables.append(f'"{name}": [\n{rows}\n]')
    return "{\n" + ",\n".join(tables) + "\n}\n"


def measure(
    samples: list[Sample],
) -> tuple[dict[str, list[dict[str, float]]], list[Priors]]:
    """Codes files by no priors and by those of all other pictures.

    Returns:
      For both the ideal bits of each file by name of the symbols; and the counts of the
      symbols of each file in their contexts.
    """
    bars = {"unit": "file", "disable": None}
    coded = [code(s, no_priors()) for s in tqdm(samples, desc="counting", **bars)]
    counts = [each for _, each in coded]
    by_others = []
    for sample in tqdm(samples, desc="coding", **bars):
        pairs = zip(samples, counts)
        others = [c for other, c in pairs if other.picture != sample.picture]
        priors = train(others) if others else no_priors()
        by_others.append(code(sample, priors)[0])
    return {"none": [bits for bits, _ in coded], "of others": by_others}, counts


def describe(bits: dict[str, list[dict[str, float]]]) -> str:
    """Returns a table of the mean bytes of a file by name of the symbols."""
    lines = [f"{'bytes of a file':16}" + "".join(f"{name:>12}" for name in bits)]
    names = {name: None for files in bits.values() for b in files for name in b}
    for name in names:
        means = [
            np.mean([b.get(name, 0) for b in files]) / 8 for files in bits.values()
        ]
        lines.append(f"{name:16}" + "".join(f"{mean:12.1f}" for mean in means))
    sums = [np.mean([sum(b.values()) for b in files]) / 8 for files in bits.values()]
    lines.append(f"{'all':16}" + "".join(f"{mean:12.1f}" for mean in sums))
    return "\n".join(lines)


def code(sample: Sample, priors: Priors) -> tuple[dict[str, float], Priors]:
    """Returns the ideal bits of a file by name, and its symbols' counts."""
    channels = sample.symbols.colors.shape[1]
    model = SymbolModel(channels, priors)
    encoder = Encoder()
    number = len(sample.symbols.size)
    code_symbols(encoder, number, channels, sample.image_size, sample.symbols, model)
    colors = [table.counts for table in model.colors]
    nothing = [np.zeros_like(prior) for prior in priors[len(colors) : 3]]
    others = [np.sum(colors[2:], axis=0)] if channels > 2 else []
    shapes = [model.rings, model.angles, model.splits.small, model.splits.large]
    tables = [*colors[:2], *others, *nothing, *(table.counts for table in shapes)]
    return encoder.bits, Priors(*tables)


if __name__ == "__main__":
    run_script(Config, main)
