r"""Makes one document of all results below some folders.

    python -m experiments.report results/rd results/sweep --images='data/kodak/*.png'

Finds every metrics.json of fit, representation, compression and ablations, at any depth
(those of a sweep too), and puts what is of one experiment and the same settings
together: tables, plots, what the pictures look like beside the originals and beside
JPEG at the same bytes, where they are wrong, and the Gaussians of one as ellipses.
Writes one HTML file that opens offline, and its text in Markdown. A metrics.json that
cannot be read is named and left out.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from experiments import contact, found, page, plots
from experiments import rate_distortion as rd
from experiments.config import check_least, run_script, setting
from experiments.markdown import literal, significant, table
from experiments.records import scalars
from experiments.runner import find_pictures
from experiments.tasks import load_experiment
from gi_jax.images import atomic_write

# What the plots that experiments make show.
_CAPTIONS: Final = {
    ("compression", "rates.png"): "PSNR against bits per pixel of real files, each "
    "picture: ours thick, beside other codecs",
    ("compression", "means.png"): "PSNR and MS-SSIM against bits per pixel, means over "
    "the pictures; dotted curves are published by others, not measured here",
    ("representation", "psnr.png"): "PSNR against the number of Gaussians and against "
    "the seconds of the fit; the star is published",
    ("ablations", "ablations.png"): "The rows of the table beside each other",
}

Block = str | Sequence[page.Picture]  # of a section

# Of any number: what tells an MS-SSIM of 0.9985 from one of 0.9987.
_DIGITS: Final = 5

_TITLE: Final = "Pictures made of 2D Gaussians: results"


@dataclasses.dataclass(frozen=True)
class Config:
    """What goes into the document, and where it goes."""

    output: str = setting(
        "",
        help="HTML file to write, the text beside it in .md; by default report.html "
        "in the first folder",
    )
    images: str = setting(
        "", help="pattern of the original pictures, where results do not say them"
    )
    published: str = setting(
        "", help="JSON file of published points, for the curves of compression"
    )
    range: str = setting(
        "0.1,0.5", help="bits per pixel of our files that count for the rates"
    )
    pictures: int = setting(12, help="of each experiment that are shown, at the most")
    side: int = setting(640, help="pixels of the longer side of a shown picture")

    def __post_init__(self) -> None:
        check_least(self, pictures=0, side=16)
        if self.output and not self.output.endswith(".html"):
            raise ValueError(f"output: expected a name in .html, got {self.output!r}")
        # Before the work, not after it.
        rd.parse_range(self.range)
        rd.published(self.published)


def run(folders: Sequence[Path], config: Config) -> Path:
    """Writes the document; returns the HTML file.

    Raises:
      ValueError: where there is no result, or a folder is none.
    """
    originals = find_pictures(config.images) if config.images else []
    runs, problems = found.find(folders)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    groups = found.group(runs)
    sections = [_summary_section(groups, problems)]
    for experiment in dict.fromkeys(group.experiment for group in groups):
        mine = [group for group in groups if group.experiment == experiment]
        sections += _experiment_sections(mine, originals, config)
    output = Path(config.output or folders[0] / "report.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(output.with_suffix(".md"), page.to_markdown(_TITLE, sections))
    atomic_write(output, page.to_html(_TITLE, sections))
    return output


def _summary_section(
    groups: Sequence[found.Group], problems: Sequence[str]
) -> page.Section:
    rows = []
    for experiment in dict.fromkeys(group.experiment for group in groups):
        mine = [group for group in groups if group.experiment == experiment]
        runs = [run for group in mine for run in group.runs]
        devices = {str(run.result.get("device", "not noted")) for run in runs}
        cells = [literal(experiment), f"{len(mine):,}", f"{len(runs):,}"]
        rows.append([*cells, literal(", ".join(sorted(devices)))])
    blocks = [table(["experiment", "settings", "results", "device"], rows)]
    if problems:
        named = "\n".join(f"- {literal(problem)}" for problem in problems)
        blocks.append(f"**Left out**, since it could not be read:\n\n{named}")
    return page.Section("What is here", 2, blocks)


def _experiment_sections(
    groups: Sequence[found.Group], originals: Sequence[Path], config: Config
) -> Iterator[page.Section]:
    """Yields the sections of one experiment: all settings, each, what is to be seen."""
    names = found.differing(groups)
    blocks = []
    if len(groups) > 1:
        blocks = [
            _overview(groups, names),
            *_tried("No curves", _curves, groups, names),
        ]
    experiment = groups[0].experiment
    yield page.Section(experiment, 2, blocks)
    for group in groups:
        title = ", ".join(f"{name} = {group.settings.get(name)}" for name in names)
        count = len(group.runs)
        title = title or f"{count} picture{'s'[: count > 1]}"
        yield page.Section(title, 3, [*_group_blocks(group, config)])
    yield page.Section(
        f"Pictures of {experiment}", 3, [*_pictures(groups, originals, config)]
    )


def _curves(groups: Sequence[found.Group], names: Sequence[str]) -> Iterator[Block]:
    if figure := plots.by_settings(groups, names):
        what = "Mean PSNR of each setting against those that are numbers"
        yield [page.from_png(plots.png(figure), what, what)]


def _overview(groups: Sequence[found.Group], names: Sequence[str]) -> str:
    """Returns a table of all settings with means of what is one number a picture."""
    values = [[scalars(run.result) for run in group.runs] for group in groups]
    constant = {*groups[0].settings, "height", "width", "channels"}
    columns = [
        name
        for name in dict.fromkeys(n for each in values for row in each for n in row)
        if name not in constant
        and any(all(name in row for row in each) for each in values)
    ]
    rows = []
    for group, each in zip(groups, values):
        settings = [literal(group.settings.get(name)) for name in names]
        means = [rd.mean_of_all(row.get(name) for row in each) for name in columns]
        rows.append([*settings, f"{len(each)}", *map(_number, means)])
    return "Means over the pictures of each setting\n\n" + table(
        map(literal, [*names, "pictures", *columns]), rows
    )


def _number(value: float | None) -> str | None:
    return significant(value, _DIGITS)


def _group_blocks(group: found.Group, config: Config) -> Iterator[Block]:
    """Yields settings, the experiment's own tables and plots, and convergence."""
    settings = ", ".join(f"{k} {v}" for k, v in group.settings.items())
    yield f"Settings: {literal(settings)}."
    results = [run.result for run in group.runs]
    if group.experiment == found.UNKNOWN:
        yield _plain_table(results)
    else:
        yield from _tried("Could not be summarized", _own_summary, group, config)
    yield from _tried("No convergence", _convergence, results)


def _own_summary(group: found.Group, config: Config) -> Iterator[Block]:
    """Yields what the experiment writes of its results: tables and plots."""
    experiment = load_experiment(group.experiment)
    own = found.config_of(group, published=config.published, range=config.range)
    with tempfile.TemporaryDirectory() as folder:
        results = [run.result for run in group.runs]
        yield experiment.summarize(results, own, Path(folder))
        for plot in sorted(Path(folder).glob("*.png")):
            what = _CAPTIONS.get((group.experiment, plot.name), plot.name)
            yield [page.from_png(plot.read_bytes(), what, what)]


def _convergence(results: Sequence[dict[str, Any]]) -> Iterator[Block]:
    if figure := plots.convergence(results):
        what = "Convergence: PSNR of the fit against its steps, each picture"
        yield [page.from_png(plots.png(figure), what, what)]


def _tried(
    what: str, make: Callable[..., Iterable[Block]], *arguments: Any
) -> list[Block]:
    """Returns blocks; or why there are none, as of results of other versions."""
    try:
        return [*make(*arguments)]
    except Exception as error:  # Anything: files were edited, or only half are there.
        print(f"{what}: {error!r}", file=sys.stderr)
        return [f"{literal(what)}: {literal(repr(error))}"]


def _plain_table(results: Sequence[dict[str, Any]]) -> str:
    """Returns what results of an unknown form say in numbers."""
    values = [scalars(result) for result in results]
    columns = dict.fromkeys(name for row in values for name in row)
    rows = [
        [literal(result["picture"]), *(_number(row.get(name)) for name in columns)]
        for result, row in zip(results, values)
    ]
    return table(["picture", *map(literal, columns)], rows)


def _pictures(
    groups: Sequence[found.Group], originals: Sequence[Path], config: Config
) -> Iterator[Block]:
    """Yields what some results look like, the same number of each setting."""
    share = -(-config.pictures // len(groups))
    runs = [run for group in groups for run in group.runs[:share]][: config.pictures]
    total = sum(len(group.runs) for group in groups)
    yield (
        f"{len(runs)} of {total} results. Pictures are scaled to at most "
        f"{config.side} pixels and compressed for this page; PSNR and bytes are those "
        f"of the real ones. Errors are {' '.join(plots.ERROR_SCALE_TEXT.split())}."
    )
    for run in tqdm(runs, groups[0].experiment, leave=False, disable=None):
        yield from _tried(
            f"No pictures of {run.folder}", _panels, run, originals, config
        )
    yield from _tried("No ellipses", _ellipses, runs, config)


def _panels(
    run: found.Run, originals: Sequence[Path], config: Config
) -> Iterator[Block]:
    shown = contact.panels(run, originals, config.side)
    yield shown or f"{literal(run.result['picture'])}: no picture is left."


def _ellipses(runs: Sequence[found.Run], config: Config) -> Iterator[Block]:
    drawn = contact.ellipses_of(runs, config.side)
    if drawn is not None:
        yield [drawn]


def main(config: Config, folders: Sequence[str]) -> int:
    """Runs what the command line says."""
    try:
        written = run([Path(name) for name in folders], config)
        print(f"{written}\n{written.with_suffix('.md')}")
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_script(Config, main, arguments="folders with results")
