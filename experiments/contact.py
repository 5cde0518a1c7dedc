"""Pictures of results: original, ours, JPEG at the same bytes, where they are wrong."""

import bisect
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import imageio.v3 as iio
import numpy as np

import gi_jax as gi
from experiments import anchors, ellipses, page, plots
from experiments.found import Run, natural
from experiments.pictures import load_crop
from experiments.runner import METRICS
from gi_jax.images import load_image, to_uint8

# Pictures that are shown of one result, at the most: of several fits in one folder.
MAX_RENDERINGS: Final = 6

_JPEG_NAME: Final = "jpeg 4:2:0"
JPEG: Final = anchors.ANCHORS[_JPEG_NAME]
_JPEG_QUALITIES: Final = range(1, 96)  # Beyond, files grow and pictures hardly do.

# How much larger ellipses are than other pictures: thin lines, many of them.
_ELLIPSES: Final = 2.5


def panels(run: Run, originals: Sequence[Path], max_side: int) -> list[page.Picture]:
    """Returns what there is to see of a result.

    Args:
      run: the result.
      originals: picture files among which the original may be.
      max_side: pixels of the longer side of a panel, at the most.
    """
    name = run.result["picture"]
    original = find_original(run, originals)

    def panel(pixels: np.ndarray, what: str) -> page.Picture:
        return page.from_pixels(pixels, f"{name}: {what}", f"{name}, {what}", max_side)

    shown, errors = [], []
    if original is not None:
        shown.append(panel(original, "original"))
    for what, pixels, size in _renderings(run.folder):
        pictures = [(what, pixels)]
        if original is not None and size is not None and original.shape[2] == 3:
            pictures += jpeg_of_at_most(original, size)
        for text, picture in pictures:
            if original is not None and picture.shape == original.shape:
                text = f"{text}, {_decibels(picture, original)}"
                errors.append(
                    panel(plots.error_map(picture, original), f"errors of {text}")
                )
            shown.append(panel(picture, text))
    if not errors and (sheet := run.folder / "contact.png").exists():
        pixels = to_uint8(load_image(sheet))
        what = "contact sheet, made with the result"
        shown = [page.from_pixels(pixels, f"{name}: {what}", what, 3 * max_side)]
    return shown + errors


def find_original(run: Run, originals: Sequence[Path]) -> np.ndarray | None:
    """Returns the picture that a result is of, [H, W, C] uint8; None if not found.

    It is where the result says, or among files of such a name; its pixels decide.
    """
    source = run.result.get("source")
    places = [Path(source)] if isinstance(source, str) else []
    name = run.result["picture"]
    places += [path for path in originals if name.startswith(path.stem)]
    for path in places:
        try:
            image = load_crop(path, run.result["config"].get("crop"))
        except (OSError, ValueError):
            continue
        expected = run.result["config"].get("pixels")
        for pixels in image, to_uint8(image):
            if hashlib.sha256(pixels.tobytes()).hexdigest() == expected:
                return to_uint8(image)
    return None


def jpeg_of_at_most(pixels: np.ndarray, num_bytes: int) -> list[tuple[str, np.ndarray]]:
    """Returns the best JPEG file of no more bytes; none where all are larger."""

    def encode(quality):
        return anchors.encode(JPEG, pixels, quality)

    fitting = bisect.bisect_right(
        _JPEG_QUALITIES, num_bytes, key=lambda quality: len(encode(quality))
    )
    if not fitting:
        return []
    data = encode(_JPEG_QUALITIES[fitting - 1])
    return [(f"{_JPEG_NAME}: {len(data):,} bytes", anchors.decode(data))]


def ellipses_of(runs: Sequence[Run], max_side: int) -> page.Picture | None:
    """Returns the Gaussians of the first result that has any, over their picture.

    Args:
      runs: results.
      max_side: pixels of the longer side of a panel; of this one they are more.
    """
    side = round(_ELLIPSES * max_side)
    for run in runs:
        for file in [*_own_files(run.folder, "gaussians.npz"), *_gi_files(run.folder)]:
            try:
                gaussians, size = ellipses.read(file)
            except ValueError:  # Of an experiment with Gaussians of another kind.
                continue
            picture = file.with_name("picture.png")
            if size is not None:
                background = np.asarray(gi.rasterize(gaussians, size))
            elif picture.exists():
                background = load_image(picture)
            else:
                continue
            figure = ellipses.draw(gaussians, background, side=side)
            what = (
                f"{run.result['picture']}: the Gaussians of "
                f"{file.relative_to(run.folder)}, each a contour at one standard "
                "deviation, coloured by its size"
            )
            pixels = iio.imread(plots.png(figure, ellipses.DPI))[:, :, :3]
            return page.from_pixels(pixels, what, what, side)
    return None


def _renderings(folder: Path) -> Iterator[tuple[str, np.ndarray, int | None]]:
    """Yields names, pixels and, of files that were decoded, bytes."""
    pictures = _own_files(folder, "picture.png")
    for number, file in enumerate(pictures[:MAX_RENDERINGS], 1):
        place = file.parent.relative_to(folder)
        name = "ours" if place == Path() else f"ours, {place}"
        if number == MAX_RENDERINGS < len(pictures):
            name += f" (of {len(pictures)}, the others are not shown)"
        yield name, to_uint8(load_image(file)), None
    for file in _gi_files(folder)[: 0 if pictures else 1]:
        data = file.read_bytes()
        name = f"ours, {file.name}: {len(data):,} bytes"
        yield name, to_uint8(gi.decode(data)), len(data)


def _gi_files(folder: Path) -> list[Path]:
    """Returns our files, the one of the middle size first."""
    files = [file for file in folder.glob("*.gi") if not file.name.startswith("paper")]
    files.sort(key=lambda file: file.stat().st_size)
    middle = len(files) // 2
    return files[middle:] + files[:middle]


def _own_files(folder: Path, name: str) -> list[Path]:
    """Returns files of a name in a folder, but for those of results below it."""
    others = {file.parent for file in folder.rglob(METRICS)} - {folder}
    files = (file for file in folder.rglob(name) if others.isdisjoint(file.parents))
    return sorted(files, key=lambda file: natural(str(file)))


def _decibels(picture: np.ndarray, original: np.ndarray) -> str:
    error = np.mean((picture.astype(np.float64) - original) ** 2)
    return f"{10 * np.log10(255**2 / error):.2f} dB" if error else "equal"
