"""What `compression` reports: Bjøntegaard figures, Table 2 of the paper, bits."""

from collections.abc import Sequence
from typing import Any, Final

from experiments import rate_distortion as rd
from experiments.markdown import fixed, literal, signed, significant, table

_QUALITIES: Final = ("psnr", "ms_ssim")


def summary(results: Sequence[rd.Result], low: float, high: float) -> dict[str, Any]:
    """Returns all that the tables show of the results, as plain data.

    Args:
      results: of pictures, at least one.
      low: bits per pixel, from which on our files count for the Bjøntegaard figures.
      high: bits per pixel, up to which.
    """
    others = rd.codecs(results)[1:]
    deltas: dict[str, Any] = {}
    for result in results:
        ours = {
            quality: [
                point
                for point in rd.curve(result, rd.OURS, quality)
                if low <= point["bpp"] <= high
            ]
            for quality in _QUALITIES
        }
        deltas[result["picture"]] = {
            codec: {
                quality: rd.bjontegaard_deltas(
                    rd.curve(result, codec, quality), ours[quality], quality
                )
                for quality in _QUALITIES
            }
            for codec in others
        }
    means = {
        codec: {
            quality: {
                delta: rd.mean(each[codec][quality][delta] for each in deltas.values())
                for delta in ("rate", "quality")
            }
            for quality in _QUALITIES
        }
        for codec in others
    }
    return {
        "range": [low, high],
        "bjontegaard": deltas,
        "mean": means,
        "at_like_rates": {
            f"{step:g}": rd.at_like_rates(results, step)
            for step in rd.settings(results, rd.OURS)
        },
        "ours": {result["picture"]: _our_files(result) for result in results},
    }


def _our_files(result: rd.Result) -> list[rd.Point]:
    """Returns all of them by size, those too that more bytes made worse."""
    ours = [point for point in result["points"] if point["codec"] == rd.OURS]
    return sorted(ours, key=lambda point: point["bytes"])


def markdown(summary: dict[str, Any]) -> str:
    """Returns as tables what `summary` returned, and 'published', which may be {}."""
    sections = [_bjontegaard_table(summary), _like_rates_table(summary)]
    sections += [_files_table(summary), _bits_table(summary)]
    if summary["published"]:
        sections.append(_published_table(summary))
    return "\n".join(sections)


def _bjontegaard_table(summary: dict[str, Any]) -> str:
    rows = []
    for picture, deltas in (summary["bjontegaard"] | {"mean": summary["mean"]}).items():
        cells = [
            " / ".join(
                signed(each[quality]["rate"], 1, " %") or "–" for quality in _QUALITIES
            )
            + ", "
            + (signed(each["psnr"]["quality"], 2, " dB") or "–")
            for each in deltas.values()
        ]
        rows.append([literal(picture), *cells])
    columns = ["picture", *map(literal, summary["mean"])]
    low, high = summary["range"]
    why = ""
    if any("–" in cell for row in rows for cell in row[1:]):
        why = (
            f" A dash: fewer than two of our files are within --range={low:g},{high:g} "
            "bits per pixel, or their qualities do not overlap with those of the codec."
        )
    return (
        "**Beside other codecs**: bytes more at equal PSNR / at equal MS-SSIM, and dB "
        f"more at equal bytes (BD-rate, BD-PSNR; fewer bytes are negative).{why}\n\n"
    ) + table(columns, rows)


def _like_rates_table(summary: dict[str, Any]) -> str:
    rows = []
    for step, codecs in summary["at_like_rates"].items():
        for row in codecs:
            speeds = [
                (significant(row[f"{name}s_per_second"]) or "")
                + ("" if row[f"{name}_warm"] else "\\*")
                for name in ("encode", "decode")
            ]
            rows.append(
                [
                    f"{literal(row['codec'])}, D = {step}"
                    if row["codec"] == rd.OURS
                    else literal(row["codec"]),
                    fixed(row["bpp"], 3),
                    fixed(row["psnr"], 2),
                    fixed(row["ms_ssim"], 4),
                    *speeds,
                ]
            )
    columns = ["codec", "bpp", "PSNR, dB", "MS-SSIM", "encodes / s", "decodes / s"]
    return (
        "**At like rates**: means over pictures; of each codec the file nearest in "
        f"size to ours, where all are within {rd.LIKE_RATES:g} times of it. Times are "
        "after warm-up; \\* includes compilation.\n\n"
    ) + table(columns, rows)


def _files_table(summary: dict[str, Any]) -> str:
    rows = [
        [
            literal(picture),
            f"{p['setting']:g}",
            f"{p['bytes']:,}",
            fixed(p["bpp"], 3),
            fixed(p["psnr"], 2),
            fixed(p["ms_ssim"], 4),
            fixed(p["encode_seconds"], 1),
            fixed(p["decode_seconds"], 2),
            fixed(p.get("warm_decode_seconds"), 3),
        ]
        for picture, points in summary["ours"].items()
        for p in points
    ]
    columns = ["picture", "D", "bytes", "bpp", "PSNR, dB", "MS-SSIM"]
    columns += ["encode, s", "decode, s", "warm decode, s"]
    return "**Our files**\n\n" + table(columns, rows)


def _bits_table(summary: dict[str, Any]) -> str:
    """Returns bits per Gaussian by what they say, means over the pictures."""
    by_step: dict[float, list[rd.Point]] = {}
    for points in summary["ours"].values():
        for point in points:
            if point.get("bits"):
                by_step.setdefault(point["setting"], []).append(point)
    if not by_step:
        return ""
    names = list(next(iter(by_step.values()))[0]["bits"])
    rows = [
        [
            f"{step:g}",
            fixed(rd.mean(p["num_gaussians"] for p in points), 0),
            *(fixed(rd.mean(p["bits"].get(n, 0) for p in points), 2) for n in names),
        ]
        for step, points in by_step.items()
    ]
    columns = ["D", "Gaussians", *map(literal, names)]
    return "**Bits per Gaussian** of our files, by what they say\n\n" + table(
        columns, rows
    )


def _published_table(summary: dict[str, Any]) -> str:
    rows = [
        [
            literal(name),
            ", ".join(
                f"{bpp:.3f}: {psnr:.2f}"
                for bpp, psnr in zip(entry["bpp"], entry["psnr"])
            ),
            literal(entry["reference"]),
            literal(entry["figures_from"]),
        ]
        for name, entry in summary["published"].items()
    ]
    columns = ["codec", "bpp: PSNR, dB", "reference", "figures from"]
    return (
        "**Published, not measured here**: means over the 24 pictures of the Kodak "
        "suite, as others report them.\n\n"
    ) + table(columns, rows)
