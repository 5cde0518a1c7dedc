"""What `ablations` reports: means over pictures, differences, and the paper's figures.

A point is what came of one row for one picture, a dict with 'row', 'num_gaussians' and
figures; 'points' is the list of them in a metrics.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from experiments import plots
from experiments import rate_distortion as rd
from experiments.markdown import fixed, signed, table
from experiments.variants import BASE, CODINGS, VARIANTS

_PUBLISHED: Final = (
    "Published figures are those of the paper: 24 pictures of Kodak, 30,000 Gaussians "
    "in table 3 and curves in table 4, 50,000 steps, V100."
)

# The columns of table 3, ours and published: name, key, digits.
_FIGURES: Final = (
    ("PSNR, dB", "psnr", 2),
    ("MS-SSIM", "ms_ssim", 4),
    ("fit, s", "fit_seconds", 1),
    ("FPS", "frames_per_second", 0),
    ("parameters, K", "parameters", 1),
)


def mean_rows(results: Sequence[dict[str, Any]], known: Mapping) -> list[dict]:
    """Returns means over pictures for each row and number of Gaussians.

    Args:
      results: of pictures, at least one.
      known: the rows of the table in order, VARIANTS or CODINGS.

    Returns:
      Dicts with 'row', 'label', 'num_gaussians', 'pictures', the means of all numbers,
      and 'difference', of PSNR to the first row with as many Gaussians.
    """
    points = [point for result in results for point in result["points"]]
    kinds = {(point["row"], point["num_gaussians"]) for point in points}
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for row, count in sorted(kinds, key=lambda kind: ([*known].index(kind[0]), kind)):
        found = [p for p in points if (p["row"], p["num_gaussians"]) == (row, count)]
        keys = [key for key, value in found[0].items() if _number(value)]
        means = {key: rd.mean(point[key] for point in found) for key in keys}
        means |= {"num_gaussians": count, "pictures": len(found)}
        rows[row, count] = {"row": row, "label": known[row].label} | means
    for (_, count), values in rows.items():
        ends = values["psnr"], rows.get((BASE, count), {}).get("psnr")
        values["difference"] = None if None in ends else ends[0] - ends[1]
    return [*rows.values()]


def _number(value: Any) -> bool:
    """Returns whether it can be part of a mean; a PSNR of equal pictures is None."""
    return value is None or isinstance(value, int | float)


def deltas(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Returns Bjøntegaard deltas of each row of table 4 against the first one.

    Returns:
      By row the means over pictures of 'quality', dB more at equal bytes, and 'rate',
      percent more bytes at equal PSNR; None where there are no curves.
    """
    pictures: dict[str, list[dict[str, Any]]] = {}  # A sweep has several results each.
    for result in results:
        points = [point | {"codec": point["row"]} for point in result["points"]]
        pictures.setdefault(result["picture"], []).extend(points)
    each: dict[str, list[dict[str, float | None]]] = {}
    for points in pictures.values():
        base = rd.curve({"points": points}, BASE)
        for row in {point["row"] for point in points}:
            delta = rd.bjontegaard_deltas(
                base, rd.curve({"points": points}, row), "psnr"
            )
            each.setdefault(row, []).append(delta)
    return {
        row: {key: rd.mean(d[key] for d in each[row]) for key in ("quality", "rate")}
        for row in CODINGS
        if row in each
    }


def variants_text(rows: Sequence[dict[str, Any]]) -> str:
    """Returns table 3 as Markdown, ours and what is published."""
    columns = ["variant", "Gaussians", "pictures"]
    for side in "", "published ":
        columns += [f"{side}{name}" for name, _, _ in _FIGURES]
        columns += [f"{side}difference, dB"]
    base = VARIANTS[BASE].published["psnr"]
    lines = []
    for row in rows:
        theirs = VARIANTS[row["row"]].published
        line = [row["label"], fixed(row["num_gaussians"], 0), fixed(row["pictures"], 0)]
        for values in row, theirs | {"difference": theirs["psnr"] - base}:
            values = values | {"parameters": values["parameters"] / 1e3}
            line += [fixed(values[key], digits) for _, key, digits in _FIGURES]
            line += [signed(values["difference"], 2)]
        lines.append(line)
    return f"{table(columns, lines)}\n{_PUBLISHED}\n"


def codings_text(
    rows: Sequence[dict[str, Any]], deltas: Mapping[str, Mapping[str, float | None]]
) -> str:
    """Returns table 4 as Markdown, ours and what is published, and all rates."""
    columns = ["variant", "BD-PSNR, dB", "BD-rate"]
    columns += ["published BD-PSNR, dB", "published BD-rate"]
    lines = []
    for row, ours in deltas.items():
        line: list[str | None] = [CODINGS[row].label]
        for values in ours, CODINGS[row].published:
            line += [signed(values["quality"], 3), signed(values["rate"], 1, " %")]
        lines.append(line)
    text = f"{table(columns, lines)}\n{_PUBLISHED}\n\n"
    columns = ["variant", "Gaussians", "pictures", "bpp", "bits per Gaussian"]
    columns += ["PSNR, dB", "MS-SSIM", "difference, dB"]
    lines = [
        [
            row["label"],
            fixed(row["num_gaussians"], 0),
            fixed(row["pictures"], 0),
            fixed(row["bpp"], 3),
            fixed(8 * row["bytes"] / row["num_gaussians"], 1),
            fixed(row["psnr"], 2),
            fixed(row["ms_ssim"], 4),
            signed(row["difference"], 2),
        ]
        for row in rows
    ]
    return text + table(columns, lines)


def variants_plot(rows: Sequence[dict[str, Any]]) -> plots.Figure:
    """Draws differences of PSNR to the first row as bars, ours and published."""
    rows = [row for row in rows if row["row"] != BASE and row["difference"] is not None]
    figure, (axes,) = plots.new_figure(size=(8, 4.5))
    place = np.arange(len(rows))
    base = VARIANTS[BASE].published["psnr"]
    theirs = [VARIANTS[row["row"]].published["psnr"] - base for row in rows]
    axes.barh(place - 0.2, [row["difference"] for row in rows], 0.4, label="ours")
    axes.barh(place + 0.2, theirs, 0.4, color="0.7", label="published")
    labels = [f"{row['label']}, {row['num_gaussians']:,}" for row in rows]
    axes.set_yticks(place, labels)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"PSNR, dB, less that of: {VARIANTS[BASE].label}")
    axes.grid(alpha=0.3, axis="x")
    axes.legend()
    return figure


def codings_plot(rows: Sequence[dict[str, Any]]) -> plots.Figure:
    """Draws PSNR against bits per pixel, means over the pictures."""
    figure, (axes,) = plots.new_figure(size=(7, 4.5))
    for name in dict.fromkeys(row["row"] for row in rows):
        curve = [row for row in rows if row["row"] == name and row["psnr"] is not None]
        rates, psnr = ([row[key] for row in curve] for key in ("bpp", "psnr"))
        axes.plot(rates, psnr, marker="o", label=CODINGS[name].label)
    axes.set(xlabel="bits per pixel", ylabel="PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
