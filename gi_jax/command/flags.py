"""The command line of `gi`: its flags, their values and their help."""

import argparse
import importlib.metadata
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from absl.flags import argparse_flags

_DESCRIPTION: Final = """\
Pictures as sums of 2D Gaussians: small files that decode at any size.

  gi encode photo.png                      write photo.gi beside it
  gi decode photo.gi -o photo.png          turn it into a picture again
  gi decode photo.gi -o big.png --scale=2  twice as wide and high
  gi info photo.gi                         what is in the file
"""

_ENCODE: Final = """\
Compresses each picture to a .gi file. Prints its bytes, bits per pixel (bpp), and how
alike the decoded picture is (PSNR in dB, MS-SSIM).

  gi encode photo.png -o photo.gi --quality=40
  gi encode photo.png -o photo.gi --target_bpp=0.3       or _bytes=10kB, or _psnr=35
  gi encode photo.png -o photo.gi --effort=9             a smaller file, slower
  gi encode photos/ -o encoded/                          all pictures of a folder
  gi encode photo.png --codec=paper --num_gaussians=10000

Inputs whose outputs would share a name keep their suffix in it: photo.jpg and photo.png
become photo.jpg.gi and photo.png.gi. Several processes may share a folder: each leaves
alone what another one is making. The exit code is 1 where a file failed or was left.
"""

_DECODE: Final = """\
Renders .gi files as 8-bit pictures, in the format that the suffix of OUT names.

  gi decode photo.gi -o photo.png
  gi decode photo.gi -o half.jpg --scale=0.5
  gi decode encoded/ -o decoded/                         all .gi files of a folder
"""

_INFO: Final = """\
Prints what the header of each .gi file says and what its sections cost.

  gi info photo.gi
  gi info *.gi --json
"""

# Of --target_bytes, in small letters.
_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


class UsageError(Exception):
    """The command makes no sense as a whole; nothing has been done yet."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in two lines: a short usage, and the error."""

    def parse_known_args(self, args=None, namespace=None):
        """Parses what it knows, and refuses the rest where it stands."""
        namespace, others = super().parse_known_args(args, namespace)
        if others:
            self.error(f"unrecognized arguments: {' '.join(others)}")
        return namespace, others

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _MainParser(_Parser, argparse_flags.ArgumentParser):
    pass


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line, program name first; exits with code 2 on a wrong one."""
    form: Any = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
    usage = "gi [encode|decode|info] IN..."
    parser = _MainParser(prog="gi", usage=usage, description=_DESCRIPTION, **form)
    version = f"gi_jax {importlib.metadata.version('gi_jax')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(
        metavar="COMMAND",
        dest="command",
        required=True,
        parser_class=_Parser,
        prog="gi",
    )
    summary = "pictures to .gi files"
    encode = commands.add_parser("encode", help=summary, description=_ENCODE, **form)
    summary = ".gi files to pictures"
    decode = commands.add_parser("decode", help=summary, description=_DECODE, **form)
    summary = "what is in .gi files"
    info = commands.add_parser("info", help=summary, description=_INFO, **form)
    for command, inputs, default in (
        (encode, "pictures", "photo.gi"),
        (decode, ".gi files", "photo.decoded.png, since photo.png is the original"),
        (info, ".gi files", None),
    ):
        output = " [-o OUT]" if default else ""
        command.usage = f"{command.prog} IN...{output} [FLAGS]"
        add = command.add_argument
        folders = ", or folders of them" if default else ""
        add("inputs", metavar="IN", nargs="+", type=Path, help=f"{inputs}{folders}")
        add("--json", action="store_true", help="print one JSON object per line")
        if default:
            place = "a file, or a folder where there are several inputs; default: "
            beside = f"beside the input, as {default}"
            add("-o", "--output", metavar="OUT", help=place + beside)
            add("--force", action="store_true", help="replace files that exist")

    _add_encoding_flags(encode)
    help = "enlarges width and height (default: %(default)s)"
    decode.add_argument("--scale", metavar="S", type=_scale, default=1.0, help=help)
    return parser.parse_args(argv[1:])


def _add_encoding_flags(encode: argparse.ArgumentParser) -> None:
    aims = encode.add_mutually_exclusive_group()
    help = "1, the smallest files, to 100 (default: 50)"
    aims.add_argument("--quality", metavar="Q", type=_at_least(1), help=help)
    help = "the largest file, in bytes, or as 12kB (of 1000) or 12KiB (of 1024)"
    aims.add_argument("--target_bytes", metavar="B", type=_bytes, help=help)
    help = "the largest file, in bits per pixel"
    aims.add_argument("--target_bpp", metavar="R", type=_scale, help=help)
    help = "the least PSNR of the decoded picture, dB"
    aims.add_argument("--target_psnr", metavar="P", type=_scale, help=help)
    add = encode.add_argument
    help = "take the values of files as sRGB, whatever their colour profiles say"
    add("--ignore_profiles", action="store_true", help=help)
    help = "1, the fastest, to 9, the smallest files (default: 5)"
    add("--effort", metavar="E", type=_at_least(1), help=help)
    help = "what is to be best at a size: psnr (default), or ssim, nearer to the eye"
    add("--tune", choices=("psnr", "ssim"), help=help)
    help = "no channel is alpha: colours under transparent pixels are data"
    add("--exact", action="store_true", default=None, help=help)
    help = "of everything random (default: %(default)s)"
    add("--seed", metavar="S", type=_at_least(0), default=0, help=help)
    help = "ours, or the one of GaussianImage, which the flags after this are for"
    add("--codec", choices=("gaussians", "paper"), default="gaussians", help=help)
    help = "default: by the size of the picture"
    add("--num_gaussians", metavar="N", type=_at_least(1), help=help)
    help = "of the fit (default: 500)"
    add("--steps", metavar="T", type=_at_least(1), help=help)
    help = "of the fit: ours, or the paper's, which needs a hundred times the steps"
    add("--preset", choices=("fast", "paper"), help=help)
    help = "whether order is saved by sorting or by bits-back coding"
    add("--order", choices=("sorted", "bits_back"), help=help)


# Flags of `gi encode` that only one of the codecs takes.
_TARGETS: Final = ("quality", "target_bytes", "target_bpp", "target_psnr")
_FLAGS_OF: Final = {
    "gaussians": (*_TARGETS, "effort", "tune", "exact"),
    "paper": ("num_gaussians", "steps", "preset", "order"),
}


def encoding_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of the codec's encoder that the command line gives."""
    said = {name: value for name, value in vars(args).items() if value is not None}
    given = {
        codec: {name: said[name] for name in names if name in said}
        for codec, names in _FLAGS_OF.items()
    }
    settings = given.pop(args.codec)
    for codec, others in given.items():
        if others:
            names = ", ".join(f"--{name}" for name in others)
            raise UsageError(f"{names}: only with --codec={codec}")
    return settings


def _at_least(low: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"expected at least {low}, got {value}")
        return value

    return integer


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _bytes(text: str) -> int:
    """Returns a size in bytes: 12000, 12kB (of 1000) or 12KiB (of 1024)."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower())
    size = 0
    if match and match[2] in _UNITS:
        size = math.floor(float(match[1]) * _UNITS[match[2]])
    if size < 1:
        raise argparse.ArgumentTypeError(
            f"expected bytes as in 12000, 12kB, 12KiB or 1.5MB, got {text!r}"
        )
    return size
