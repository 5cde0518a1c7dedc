"""Figures of results: curves, and pictures beside each other with their errors."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from experiments import rate_distortion as rd
from experiments.found import Group
from experiments.optional import optional
from experiments.records import scalars

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

matplotlib = optional("matplotlib")
figures = optional("matplotlib.figure")

# Error maps are black where a pixel is right and white where the mean of its channels
# is off by as much or more, of 255.
ERROR_SCALE: Final = 32
ERROR_SCALE_TEXT: Final = (
    "mean of the channels' absolute differences,\n"
    f"black is 0, white {ERROR_SCALE} of 255 or more"
)

_OURS: Final = {"color": "#d62728", "marker": "o", "linewidth": 2.5, "zorder": 5}
_OTHERS: Final = ("#1f77b4", "#17becf", "#2ca02c", "#ff7f0e", "#9467bd", "#e377c2")
_OTHERS_STYLE: Final = {"marker": ".", "linewidth": 1.2}
_PUBLISHED: Final = {"linestyle": ":", "linewidth": 1, "markersize": 4}
_MARKERS: Final = "sD^v<>pPX*hd"

# What tells the fits of one picture apart.
_WAYS: Final = {
    "row": "{}",
    "preset": "{}",
    "num_gaussians": "{:,} Gaussians",
    "steps": "{:,} steps",
}

# Inches of a picture in a contact sheet, at the least: room for what stands above it.
_MIN_WIDTH: Final = 3.4


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Returns a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (5, 4)):
    """Returns a figure and its panels, [rows · columns], each so many inches."""
    figure = figures.Figure((columns * size[0], rows * size[1]), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def picture_rates(results: Sequence[rd.Result]) -> Figure:
    """Draws PSNR against rate, a panel for each picture."""
    columns = min(3, len(results))
    figure, panels = new_figure(-(-len(results) // columns), columns)
    for axes, result in zip(panels, results):
        points = {codec: rd.curve(result, codec) for codec in rd.codecs([result])}
        _curves(axes, points, "psnr")
        axes.set_title(result["picture"], parse_math=False)
    panels[0].legend(fontsize="small")
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    return figure


def mean_rates(
    results: Sequence[rd.Result], published: Mapping[str, Mapping[str, Any]]
) -> Figure:
    """Draws means over pictures, PSNR and MS-SSIM, with published curves dotted."""
    figure, (left, right) = new_figure(1, 2, size=(6, 5 + 0.06 * len(published)))
    means = {codec: rd.means(results, codec) for codec in rd.codecs(results)}
    for axes, quality in (left, "psnr"), (right, "ms_ssim"):
        _curves(axes, means, quality)
        axes.set_title(f"mean of {len(results)} picture{'s'[: len(results) > 1]}")
    limits = left.axis()
    for number, (name, entry) in enumerate(published.items()):
        left.plot(
            entry["bpp"],
            entry["psnr"],
            label=f"{name}, published",
            color=matplotlib.colormaps["tab20"](number % 20),
            marker=_MARKERS[number % len(_MARKERS)],
            **_PUBLISHED,
        )
    left.axis(limits)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, fontsize="x-small"
    )
    return figure


def _curves(axes, points: Mapping[str, Sequence[rd.Point]], quality: str) -> None:
    most = 1.5 * max((p["bpp"] for p in points.get(rd.OURS, [])), default=np.inf)
    colors = itertools.cycle(_OTHERS)
    for codec, curve in points.items():
        seen = [p for p in curve if p["bpp"] <= most]
        ours = codec == rd.OURS
        style = _OURS if ours else _OTHERS_STYLE | {"color": next(colors)}
        axes.plot(
            [p["bpp"] for p in seen], [p[quality] for p in seen], label=codec, **style
        )
    labels = {"psnr": "PSNR of 8-bit pixels, dB", "ms_ssim": "MS-SSIM"}
    axes.set(xlabel="bits per pixel of the file", ylabel=labels[quality])
    axes.grid(alpha=0.3)


def error_map(picture: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Returns where pixels are wrong, by `ERROR_SCALE`: [H, W] uint8.

    Args:
      picture: [H, W, C] uint8.
      original: [H, W, C] uint8.
    """
    error = np.abs(picture.astype(np.float64) - original).mean(axis=2)
    return np.rint(255 * np.minimum(error / ERROR_SCALE, 1)).astype(np.uint8)


def contact_sheet(
    original: np.ndarray, panels: Sequence[tuple[str, np.ndarray]]
) -> Figure:
    """Draws the original, then each picture beside its error, pixel by pixel.

    Args:
      original: [H, W, 3] uint8.
      panels: titles and pictures.
    """
    height, width = original.shape[:2]
    pairs = 1 if width >= height else 2  # Of a picture and its error, in a row.
    rows = -(-(len(panels) + 1) // pairs)
    inches = max(width / 100, _MIN_WIDTH)
    figure, grid = new_figure(rows, 2 * pairs, (inches, inches * height / width + 0.3))
    for axes in grid:
        axes.set_axis_off()
    titled = iter(grid)

    def show(title, picture):
        axes = next(titled)
        axes.imshow(picture, "gray", interpolation="nearest", vmin=0, vmax=255)
        axes.set_title(title, fontsize=9, parse_math=False)

    show("original", original)
    note = f"To the right of each picture its errors:\n{ERROR_SCALE_TEXT}"
    next(titled).text(0.5, 0.5, note, ha="center", va="center", fontsize=9)
    for title, picture in panels:
        show(title, picture)
        show("errors", error_map(picture, original))
    return figure


def convergence(results: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draws PSNR against step of all fits that have a history; None without any.

    Curves are told apart by how they were fitted, where that differs, else by picture.
    """
    curves = []
    for result in results:
        for part in [result, *result.get("points", [])]:
            if history := part.get("history"):
                way = [form.format(part[k]) for k, form in _WAYS.items() if k in part]
                curves.append((result["picture"], ", ".join(way), history))
    if not curves:
        return None
    by_way = len({way for _, way, _ in curves}) > 1
    names = [way if by_way else picture for picture, way, _ in curves]
    known = list(dict.fromkeys(names))
    colors = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(known)))
    figure, (axes,) = new_figure(size=(7, 4.5))
    for name, (_, _, history) in zip(names, curves):
        color = colors[known.index(name)]
        axes.plot(history["step"], history["psnr"], linewidth=1, color=color)
    for name, color in zip(known, colors):
        axes.plot([], [], color=color, label=name)
    axes.set(xlabel="step", ylabel="PSNR, dB")
    axes.grid(alpha=0.3)
    legend = axes.legend(fontsize="x-small", ncols=1 + (len(known) - 1) // 8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def by_settings(groups: Sequence[Group], names: Sequence[str]) -> Figure | None:
    """Draws mean PSNR of groups against each setting that is a number.

    Args:
      groups: of one experiment.
      names: of the settings in which they differ.

    Returns:
      A panel for each number, a curve for each combination of the others; None where
      no setting is a number, or a group has no PSNR.
    """
    numeric = [n for n in names if all(_number(g.settings.get(n)) for g in groups)]
    means = [
        rd.mean(scalars(run.result).get("psnr") for run in group.runs)
        for group in groups
    ]
    psnr = [value for value in means if value is not None]
    if not numeric or len(psnr) < len(groups):
        return None
    figure, panels = new_figure(1, len(numeric))
    for axes, name in zip(panels, numeric):
        curves: dict[str, list[tuple[float, float]]] = {}
        for group, value in zip(groups, psnr):
            label = ", ".join(
                f"{n} {group.settings.get(n)}" for n in names if n != name
            )
            curves.setdefault(label, []).append((float(group.settings[name]), value))
        for label, points in curves.items():
            axes.plot(*zip(*sorted(points)), marker="o", label=label or "mean PSNR")
        axes.set(xlabel=name, ylabel="PSNR, dB")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    return figure


def _number(value: Any) -> bool:
    try:
        return np.isfinite(float(value))
    except (TypeError, ValueError):
        return False
