"""Rate-distortion curves: Bjøntegaard figures, files of like rates, means, papers.

A result is the content of a metrics.json of `compression`; its points are dicts with
'codec', 'setting', 'bytes', 'bpp', 'psnr' (dB), 'ms_ssim' and seconds.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from experiments.config import numbers
from experiments.optional import optional

bjontegaard = optional("bjontegaard")

Point = dict[str, Any]
Result = dict[str, Any]

OURS: Final = "gaussians"
PAPER: Final = "paper's codec"

# Files of two codecs are of like rates where neither has more bytes than this times
# the other's. The qualities of JPEG that are tried are 1.1 to 1.4 apart.
LIKE_RATES: Final = 1.25


def codecs(results: Iterable[Result]) -> list[str]:
    """Returns the names of all codecs in the results, ours first."""
    names = (point["codec"] for result in results for point in result["points"])
    return sorted(dict.fromkeys(names), key=lambda name: name != OURS)


def settings(results: Iterable[Result], codec: str) -> list[float]:
    """Returns the settings of a codec that all pictures have, from large to small."""
    each = [
        {p["setting"] for p in result["points"] if p["codec"] == codec}
        for result in results
    ]
    return sorted(set.intersection(*each), reverse=True) if each else []


def curve(result: Result, codec: str, quality: str = "psnr") -> list[Point]:
    """Returns a codec's points by size, without those that more bytes made worse.

    Args:
      result: of a picture.
      codec: its name.
      quality: what has to rise, 'psnr' or 'ms_ssim'.
    """
    points = [p for p in result["points"] if p["codec"] == codec]
    rising: list[Point] = []
    for point in sorted(points, key=lambda p: p["bytes"]):
        if point["psnr"] is None:  # Equal pictures: no number of decibels.
            continue
        if not rising or (
            point["bytes"] > rising[-1]["bytes"]
            and point[quality] > rising[-1][quality]
        ):
            rising.append(point)
    return rising


def bjontegaard_deltas(
    theirs: Sequence[Point], ours: Sequence[Point], quality: str
) -> dict[str, float | None]:
    """Compares two curves over what both reach, by piecewise cubics (Akima).

    Args:
      theirs: curve of the codec to compare with, which rises in this quality.
      ours: curve of the codec in question, likewise.
      quality: 'psnr' or 'ms_ssim'. Of MS-SSIM the curves are those of
        -10 log₁₀(1 - MS-SSIM), dB: differences near 1 count by their ratio.

    Returns:
      'rate': percent more bytes at equal quality; negative is smaller files. 'quality':
      dB more at equal bytes. None where the curves do not overlap.
    """
    ours, theirs = (
        [p for p in points if quality == "psnr" or p["ms_ssim"] < 1]
        for points in (ours, theirs)
    )
    if len(ours) < 2 or len(theirs) < 2:
        return {"rate": None, "quality": None}

    def columns(points):
        values = np.array([point[quality] for point in points])
        if quality == "ms_ssim":
            values = -10 * np.log10(1 - values)
        return [point["bpp"] for point in points], values

    deltas = {}
    for name, compare in [
        ("rate", bjontegaard.bd_rate),
        ("quality", bjontegaard.bd_psnr),
    ]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Theirs reach further: that is intended.
            value = compare(
                *columns(theirs),
                *columns(ours),
                method="akima" if min(len(ours), len(theirs)) > 2 else "pchip",
                require_matching_points=False,
                min_overlap=0,
            )
        deltas[name] = float(value) if np.isfinite(value) else None
    return deltas


def mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the numbers that are there."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def mean_of_all(values: Iterable[float | None]) -> float | None:
    """Returns the mean of numbers; None where one is not there."""
    values = [*values]
    return None if None in values else mean(values)


def means(results: Sequence[Result], codec: str) -> list[Point]:
    """Returns the mean over pictures of a codec's points, for each of its settings."""
    rows = []
    for setting in settings(results, codec):
        points = [_point(result, codec, setting) for result in results]
        if all(point["psnr"] is not None for point in points):
            numbers = ("bytes", "bpp", "psnr", "ms_ssim")
            row = {name: mean(point[name] for point in points) for name in numbers}
            rows.append({"codec": codec, "setting": setting} | row)
    return sorted(rows, key=lambda row: row["bpp"])


def at_like_rates(results: Sequence[Result], setting: float) -> list[dict[str, Any]]:
    """Returns Table 2 of the paper: all codecs where their files are as large as ours.

    Args:
      results: of some pictures.
      setting: D of our files.

    Returns:
      A dict for each codec that has files of like rates (`LIKE_RATES`) of all pictures,
      of each the nearest in size: 'codec', 'bpp', 'psnr', 'ms_ssim' (means over
      pictures), 'encodes_per_second' and 'decodes_per_second' (of the mean time),
      'encode_warm' and 'decode_warm' (whether no time includes compilation).
    """
    rows = []
    for codec in codecs(results):
        points = [_nearest(result, codec, setting) for result in results]
        found = [point for point in points if point is not None]
        if len(found) < len(points):
            continue
        row: dict[str, Any] = {"codec": codec}
        for name in ("bpp", "psnr", "ms_ssim"):
            row[name] = mean(point[name] for point in found)
        for name in ("encode", "decode"):
            # Without the first, which compiles; older results have that one alone.
            first, warm = f"{name}_seconds", f"warm_{name}_seconds"
            times = [point[warm if warm in point else first] for point in found]
            row[f"{name}s_per_second"] = 1 / max(float(np.mean(times)), 1e-9)
            row[f"{name}_warm"] = all(warm in point for point in found)
        rows.append(row)
    return rows


def at_no_more_bytes(points: Sequence[Point]) -> list[Point]:
    """Returns our file of the middle size, and of each other codec its best below."""
    ours = sorted((p for p in points if p["codec"] == OURS), key=lambda p: p["bytes"])
    middle = ours[len(ours) // 2]
    chosen = {OURS: middle}
    for point in sorted(points, key=lambda p: p["bytes"]):
        if point["codec"] != OURS and point["bytes"] <= middle["bytes"]:
            chosen[point["codec"]] = point
    return list(chosen.values())


def _point(result: Result, codec: str, setting: float) -> Point:
    return next(
        p for p in result["points"] if p["codec"] == codec and p["setting"] == setting
    )


def _nearest(result: Result, codec: str, setting: float) -> Point | None:
    ours = _point(result, OURS, setting)
    if codec == OURS:
        return ours

    def ratio(point):
        return max(point["bytes"] / ours["bytes"], ours["bytes"] / point["bytes"])

    theirs = [p for p in result["points"] if p["codec"] == codec]
    nearest = min(theirs, key=ratio, default=None)
    return nearest if nearest is not None and ratio(nearest) <= LIKE_RATES else None


def parse_range(text: str) -> tuple[float, float]:
    """Returns the bounds that a flag says as LOW,HIGH, in bits per pixel.

    Raises:
      ValueError: where it does not.
    """
    ends = numbers("range", text)
    if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
        raise ValueError(f"range: expected LOW,HIGH, in this order, got {text!r}")
    return ends[0], ends[1]


def published(path: str | Path) -> dict[str, dict[str, Any]]:
    """Reads figures that others published.

    Args:
      path: of a JSON file: {'codecs': {name: {'bpp': [...], 'psnr_db': [...],
        'reference': ..., 'figures_from': ...}}}; '' is none.

    Returns:
      By name: 'bpp' and 'psnr' (lists, by rising bpp), 'reference', 'figures_from'.

    Raises:
      ValueError: where it is not such a file.
    """
    if not str(path):
        return {}
    try:
        entries = json.loads(Path(path).read_bytes())["codecs"]
        found = {}
        for name, entry in entries.items():
            pairs = zip(entry["bpp"], entry["psnr_db"], strict=True)
            bpp, psnr = zip(*sorted((float(a), float(b)) for a, b in pairs))
            found[name] = {"bpp": bpp, "psnr": psnr} | {
                key: str(entry.get(key, "")) for key in ("reference", "figures_from")
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"published: {path}: expected JSON with codecs, each with bpp and psnr_db: "
            f"{type(error).__name__}: {error}"
        ) from error
    return found
