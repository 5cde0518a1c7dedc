"""Figures of results: curves, and pictures beside each other with their errors."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib
import matplotlib.figure
import numpy as np

from experiments import rate_distortion as rd

Figure = matplotlib.figure.Figure

# Error maps are black where a pixel is right and white where the mean of its channels
# is off by as much or more, of 255.
ERROR_SCALE: Final = 32
ERROR_CAPTION: Final = (
    f"error: mean of the channels' absolute differences, black 0, white {ERROR_SCALE} "
    "of 255 or more"
)

_OURS: Final = {"color": "#d62728", "marker": "o", "linewidth": 2.5, "zorder": 5}
_PUBLISHED: Final = {"linestyle": ":", "linewidth": 1, "marker": ".", "markersize": 4}


def png(figure: Figure, dpi: int = 120) -> bytes:
    """Returns a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (5, 4)):
    """Returns a figure and its panels, [rows · columns], each so many inches."""
    figure = Figure((columns * size[0], rows * size[1]), layout="constrained")
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
    figure, (left, right) = new_figure(1, 2, size=(6, 5))
    means = {codec: rd.means(results, codec) for codec in rd.codecs(results)}
    for axes, quality in (left, "psnr"), (right, "ms_ssim"):
        _curves(axes, means, quality)
    limits = left.axis()
    for name, entry in published.items():
        left.plot(entry["bpp"], entry["psnr"], label=f"{name}, published", **_PUBLISHED)
    left.axis(limits)
    count = f"mean of {len(results)} picture{'s'[: len(results) > 1]}"
    left.set_title(count)
    right.set_title(count)
    left.legend(fontsize="x-small", ncols=1 if not published else 2)
    return figure


def _curves(axes, points: Mapping[str, Sequence[rd.Point]], quality: str) -> None:
    most = 1.5 * max((p["bpp"] for p in points.get(rd.OURS, [])), default=np.inf)
    for codec, curve in points.items():
        seen = [p for p in curve if p["bpp"] <= most]
        style = _OURS if codec == rd.OURS else {"marker": ".", "linewidth": 1}
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
    cells = [("original", original, "gray"), None]
    for title, picture in panels:
        cells.append((title, picture, "gray"))
        cells.append((f"its {ERROR_CAPTION}", error_map(picture, original), "gray"))
    figure, grid = new_figure(
        -(-len(cells) // (2 * pairs)), 2 * pairs, (width / 100, height / 100 + 0.3)
    )
    for axes in grid:
        axes.set_axis_off()
    for axes, cell in zip(grid, cells):
        if cell is not None:
            title, picture, colors = cell
            axes.imshow(picture, interpolation="nearest", cmap=colors, vmin=0, vmax=255)
            axes.set_title(title, fontsize=8, parse_math=False)
    return figure
