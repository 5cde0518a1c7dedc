r"""Draws Gaussians as ellipses over their picture.

    python -m experiments.ellipses photo.gi --output=ellipses.png
    python -m experiments.ellipses gaussians.npz --image=photo.png --color_by=color

Each Gaussian is its contour at --sigmas. Colours are those of its size (geometric mean
of the standard deviations, pixels), of its contribution (the root of the energy that it
adds to the picture alone, |c| √(π s₁ s₂)), or the hue of what it adds or takes. The
mean colour of a file of codec 4 is one more Gaussian, wider than the picture.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from absl import app

import gi_jax as gi
from experiments import plots
from experiments.config import check_least, run_script, setting
from experiments.optional import optional
from gi_jax.images import atomic_write, load_image

collections = optional("matplotlib.collections")
matplotlib_colors = optional("matplotlib.colors")
ticker = optional("matplotlib.ticker")

ColorBy = Literal["size", "contribution", "color"]

# Three times a Kodak picture: lines are thin beside one Gaussian of 10,000,
# which is 5 pixels wide there.
_SIDE: Final = 2304
DPI: Final = 100

_FONT_SIZE: Final = 22
_MARGINS: Final = (1.9, 0.6)  # inches to the right and above

# How much of the picture is left below the ellipses; the rest is white or gray.
_KEPT: Final = 0.45
_WHITE: Final = 255.0
_GRAY: Final = 128.0

# Gaussians that lie outside these quantiles have the colours of the ends.
_QUANTILES: Final = (0.01, 0.99)


_LABELS: Final = {
    "size": "size √(s₁ s₂), pixels",
    "contribution": "contribution |c| √(π s₁ s₂)",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to draw, and where it goes."""

    output: str = setting("ellipses.png", help="PNG file to write")
    image: str = setting(
        "", help="picture to draw over; by default what the Gaussians show"
    )
    color_by: Literal["size", "contribution", "color"] = setting(
        "size", help="what colours mean"
    )
    sigmas: float = setting(1.0, help="standard deviations of the contours")
    fraction: float = setting(
        1.0, help="share of the Gaussians that are drawn, by contribution"
    )
    side: int = setting(
        _SIDE, help="pixels of the longer side of the picture drawn, at the least"
    )

    def __post_init__(self) -> None:
        check_least(self, side=1)
        if not 0 < self.sigmas < np.inf:
            raise ValueError(f"sigmas: expected a number over 0, got {self.sigmas}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction: expected 0 to 1, not 0, got {self.fraction}")
        if not self.output.lower().endswith(".png"):
            raise ValueError(f"output: expected a name in .png, got {self.output!r}")


def read(path: Path) -> tuple[gi.Gaussians, tuple[int, int] | None]:
    """Reads Gaussians, and the size H, W of their picture where the file tells it.

    Args:
      path: a .gi file, or an .npz file of the fields of a pytree.

    Raises:
      ValueError: where it is neither.
    """
    if path.suffix.lower() != ".npz":
        try:
            gaussians, size, *_ = gi.read_gaussians(path.read_bytes())
        except gi.BitstreamError as error:
            raise ValueError(f"{path}: {error}") from error
        return gaussians, size
    try:
        with np.load(path) as arrays:
            fields = dict(arrays)
        kinds = (gi.Cholesky, gi.RotationScale)
        kind = next(kind for kind in kinds if {*kind._fields} == {*fields})
        gaussians = kind(**fields)
        gi.covariance(gaussians)  # Shapes are those of Gaussians.
    except OSError:
        raise
    except Exception as error:  # NumPy raises anything on broken files.
        raise ValueError(f"{path}: expected arrays of Gaussians") from error
    return gaussians, None


def draw(
    gaussians: gi.Gaussians,
    background: np.ndarray,
    *,
    color_by: ColorBy = "size",
    sigmas: float = 1.0,
    fraction: float = 1.0,
    side: int = _SIDE,
) -> plots.Figure:
    """Draws contours of Gaussians over a picture.

    Args:
      gaussians: N of them.
      background: [H, W, C], float in 0..1 or uint8; RGB, or grey where C < 3.
      color_by: what colours mean.
      sigmas: standard deviations of the contours.
      fraction: share of the Gaussians that are drawn, those that contribute most.
      side: pixels of the longer side of the picture drawn, at the least.

    Returns:
      The figure, for 100 dpi: a pixel of the picture is a whole number of pixels.
    """
    channels = 3 if background.shape[2] >= 3 else 1  # The others are no colours.
    picture = gi.to_uint8(background)[:, :, :channels]
    variances, axis = np.linalg.eigh(np.asarray(gi.covariance(gaussians), np.float64))
    deviations = np.sqrt(np.maximum(variances, 0))
    colors = np.asarray(gaussians.colors, np.float64)
    size = np.sqrt(deviations.prod(axis=1))
    contribution = np.linalg.norm(colors, axis=1) * np.sqrt(np.pi) * size
    count = max(1, round(fraction * len(size)))
    # Small ones above large ones, or those that matter above the others.
    drawn = np.argsort(contribution, kind="stable")[len(size) - count :]
    if color_by == "size":
        drawn = drawn[np.argsort(-size[drawn], kind="stable")]

    figure, axes, bar = _panels(picture, side, _GRAY if color_by == "color" else _WHITE)
    ellipses = collections.EllipseCollection(
        widths=2 * sigmas * deviations[drawn, 0],
        heights=2 * sigmas * deviations[drawn, 1],
        angles=np.degrees(np.arctan2(axis[drawn, 1, 0], axis[drawn, 0, 0])),
        units="xy",  # Pixels of the picture.
        offsets=np.asarray(gaussians.means, np.float64)[drawn],
        offset_transform=axes.transData,
        facecolors="none",
        linewidths=0.8,
    )
    axes.add_collection(ellipses)
    title = f"{count:,} of {len(size):,} Gaussians, contours at {sigmas:g} σ"
    if color_by == "color":
        ellipses.set_edgecolor(_hues(colors[drawn]).tolist())
        bar.set_axis_off()
        title += ", in the hue of what they add"
    else:
        values = {"size": size, "contribution": contribution}[color_by][drawn]
        # One that is wider than the picture, as a mean colour, has no contour in it.
        inside = deviations[drawn, 0] < np.hypot(*picture.shape[:2])
        ends = np.quantile(values[inside] if inside.any() else values, _QUANTILES)
        low, high = np.maximum(ends, 1e-6)
        ellipses.set_array(values)
        ellipses.set_cmap("turbo")
        ellipses.set_norm(matplotlib_colors.LogNorm(low, max(high, 1.01 * low)))
        ticks = ticker.LogLocator(subs=(1, 2, 5))
        scale = figure.colorbar(
            ellipses, cax=bar, extend="both", ticks=ticks, format="%.3g"
        )
        scale.minorticks_off()
        bar.tick_params(labelsize=_FONT_SIZE)
        bar.set_ylabel(_LABELS[color_by], fontsize=_FONT_SIZE)
    axes.set_title(title, fontsize=_FONT_SIZE)
    return figure


def _panels(picture: np.ndarray, side: int, fade_to: float):
    """Returns a figure, its panel with the picture, and one for a colour bar."""
    height, width = picture.shape[:2]
    scale = max(1, -(-side // max(height, width)))
    inches = np.array([width, height]) * scale / DPI
    whole = inches + _MARGINS
    figure = plots.figures.Figure(tuple(whole))
    # No part of a pixel is lost: pixels of the picture are squares of whole pixels.
    axes = figure.add_axes((0, 0, *(inches / whole)))
    left = (inches[0] + 0.2) / whole[0]
    bar = figure.add_axes((left, 0.02, 0.3 / whole[0], 0.96 * inches[1] / whole[1]))
    faded = fade_to + _KEPT * (picture.astype(np.float64) - fade_to)
    axes.imshow(
        np.broadcast_to(faded.astype(np.uint8), (height, width, 3)),
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure, axes, bar


def _hues(colors: np.ndarray) -> np.ndarray:
    """Returns what colours do to gray, each as much as it can, [N, 3] in 0..1."""
    colors = colors[:, : 3 if colors.shape[1] >= 3 else 1]  # The others are no colours.
    largest = np.maximum(np.abs(colors).max(axis=1, keepdims=True), 1e-12)
    return np.broadcast_to(0.5 + 0.5 * colors / largest, (len(colors), 3))


def run(path: Path, config: Config) -> Path:
    """Draws the Gaussians of a file; returns the file that was written.

    Raises:
      ValueError: on a file without Gaussians, or of a picture whose size is not known.
    """
    gaussians, size = read(path)
    if config.image:
        background = load_image(config.image)
    elif size is not None:
        background = np.asarray(gi.rasterize(gaussians, size))
    else:
        raise ValueError(f"{path}: the size is not known without --image")
    if size is not None and background.shape[:2] != size:
        raise ValueError(
            f"image: expected {size[1]}x{size[0]} pixels as in {path}, got "
            f"{background.shape[1]}x{background.shape[0]}"
        )
    options: dict[str, Any] = dataclasses.asdict(config)
    output = Path(options.pop("output"))
    options.pop("image")
    figure = draw(gaussians, background, **options)
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(output, plots.png(figure, DPI))
    return output


def main(config: Config, files: Sequence[str]) -> int:
    """Runs what the command line says."""
    if len(files) != 1:
        raise app.UsageError(f"expected one file, got {' '.join(files)}")
    try:
        print(run(Path(files[0]), config))
    except (ValueError, OSError) as error:
        print(f"ellipses: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_script(Config, main, arguments="a file, .gi or .npz")
