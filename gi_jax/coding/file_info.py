"""What is in a file, without making a picture of it."""

from dataclasses import dataclass
from typing import Any

from gi_jax.coding import bitstream
from gi_jax.coding.codec import PARAMETRIZATIONS, read_paper
from gi_jax.coding.paper_symbols import Order
from gi_jax.coding.sensitivity_codec import SENSITIVITY_CODEC, read_contents
from gi_jax.gaussians import RotationScale


@dataclass(frozen=True)
class FileInfo:
    """What a file consists of."""

    version: int
    codec: str
    parametrization: str
    image_size: tuple[int, int]  # H, W of the fitted picture, pixels
    channels: int
    num_gaussians: int  # that are coded one by one
    num_bytes: int  # of the file
    bpp: float  # bits of the file per pixel of the fitted picture
    section_bytes: dict[str, int]  # by tag, with its head; 'header' is all the rest
    bits_per_gaussian: dict[str, float]  # of each section and in total; {} for N = 0


@dataclass(frozen=True)
class PaperInfo(FileInfo):
    """What a file of the paper's codec consists of."""

    shape_bits: int
    codebook_size: int
    num_stages: int
    order: Order
    num_plain: int  # Gaussians that are coded in a given order, not by bits-back coding
    # Bits per Gaussian that bits-back coding saved, against the ideal code in a given
    # order, and the most that it could, log2 N! - log2 N; {} for another order.
    order_bits: dict[str, float]


@dataclass(frozen=True)
class SensitivityInfo(FileInfo):
    """What a file of `sensitivity_codec` consists of."""

    step: float
    mean: tuple[float, ...]  # colour
    symbol_bits: dict[str, float]  # ideal, per Gaussian, by what they say


def file_info(data: bytes) -> PaperInfo | SensitivityInfo:
    """Returns what a file consists of; it is read and checked, but not decoded.

    Args:
      data: a whole file of any codec; any bytes at all.

    Raises:
      BitstreamError: if it is not a file that `write_gaussians` or `write_symbols`
        could have written.
    """
    header, sections = bitstream.unpack(data)
    n = header.num_gaussians
    sizes = {
        tag.decode("latin1"): bitstream.SECTION_HEAD_BYTES + len(payload)
        for tag, payload in sections.items()
    }
    sizes = {"header": len(data) - sum(sizes.values())} | sizes
    totals = sizes | {"total": len(data)}
    common: dict[str, Any] = dict(
        version=bitstream.VERSION,
        image_size=(header.height, header.width),
        channels=header.channels,
        num_gaussians=n,
        num_bytes=len(data),
        bpp=8 * len(data) / (header.height * header.width),
        section_bytes=sizes,
        bits_per_gaussian={k: 8 * v / n for k, v in totals.items()} if n else {},
    )
    if header.codec == SENSITIVITY_CODEC:
        contents = read_contents(header, sections, account=True)
        return SensitivityInfo(
            **common,
            codec="sensitivity",
            parametrization=RotationScale.__name__,
            step=float(contents.step),
            mean=tuple(contents.mean.tolist()),
            symbol_bits={k: v / n for k, v in contents.bits.items()},
        )
    paper = read_paper(header, sections)
    codebooks = paper.state.colors.codebooks
    order, num_plain, saved, bound = paper.symbol_info
    by_order = {"order saved": saved, "order bound": bound}
    return PaperInfo(
        **common,
        codec="paper",
        parametrization=PARAMETRIZATIONS[header.parametrization].__name__,
        shape_bits=sections[b"SIDE"][0],
        codebook_size=codebooks.shape[1],
        num_stages=codebooks.shape[0],
        order=order,
        num_plain=num_plain,
        order_bits={
            k: v / n for k, v in by_order.items() if n and order == "bits_back"
        },
    )
