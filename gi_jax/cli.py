"""The command `gi`: pictures to .gi files and back."""

import argparse
import dataclasses
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from absl import app, logging
from absl.flags import argparse_flags

# Exit codes.
OK: Final = 0
FAILED: Final = 1  # a file failed; the others were done
USAGE: Final = 2  # nothing was done
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

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
  gi encode photo.png -o photo.gi --target_bpp=0.3       or _bytes, or _psnr
  gi encode photo.png -o photo.gi --effort=9             a smaller file, slower
  gi encode photos/ -o encoded/                          all pictures of a folder
  gi encode photo.png --codec=paper --num_gaussians=10000
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


class _Job(NamedTuple):
    source: Path
    output: Path


class _UsageError(Exception):
    """The command makes no sense as a whole; nothing has been done yet."""


def run() -> None:
    """Runs the command line: the entry point of `gi`."""
    # JAX informs about every backend that it does not find.
    app.call_after_init(lambda: logging.set_verbosity(logging.WARNING))
    app.run(main, flags_parser=parse)


def main(args: argparse.Namespace) -> int:
    """Does what the parsed command line says; returns the exit code."""
    try:
        return args.command(args)
    except _UsageError as error:
        print(f"gi: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("gi: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # As in `gi info *.gi | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line, program name first; exits with code 2 on a wrong one."""
    form: Any = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
    parser = argparse_flags.ArgumentParser(prog="gi", description=_DESCRIPTION, **form)
    version = f"gi_jax {importlib.metadata.version('gi_jax')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
    summary = "pictures to .gi files"
    encode = commands.add_parser("encode", help=summary, description=_ENCODE, **form)
    summary = ".gi files to pictures"
    decode = commands.add_parser("decode", help=summary, description=_DECODE, **form)
    summary = "what is in .gi files"
    info = commands.add_parser("info", help=summary, description=_INFO, **form)
    for command, function, inputs, suffix in (
        (encode, _encode, "pictures", ".gi"),
        (decode, _decode, ".gi files", ".png"),
        (info, _info, ".gi files", None),
    ):
        command.set_defaults(command=function)
        add = command.add_argument
        folders = ", or folders of them" if suffix else ""
        add("inputs", metavar="IN", nargs="+", type=Path, help=f"{inputs}{folders}")
        add("--json", action="store_true", help="print one JSON object per line")
        if suffix:
            place = "a file, or a folder where there are several inputs; default: "
            default = f"beside the input, with the suffix {suffix}"
            add("-o", "--output", metavar="OUT", help=place + default)
            add("--force", action="store_true", help="replace files that exist")

    _add_encoding_flags(encode)
    help = "enlarges width and height (default: %(default)s)"
    decode.add_argument("--scale", metavar="S", type=_scale, default=1.0, help=help)
    return parser.parse_args(argv[1:])


def _add_encoding_flags(encode: argparse.ArgumentParser) -> None:
    aims = encode.add_mutually_exclusive_group()
    help = "1, the smallest files, to 100 (default: 50)"
    aims.add_argument("--quality", metavar="Q", type=_at_least(1), help=help)
    help = "the largest file, in bytes"
    aims.add_argument("--target_bytes", metavar="B", type=_at_least(1), help=help)
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
    add("--exact", action="store_true", default=None, help="no channel is alpha")
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


def _encoding_settings(args: argparse.Namespace) -> dict[str, Any]:
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
            raise _UsageError(f"{names}: only with --codec={codec}")
    return settings


def _encode(args: argparse.Namespace) -> int:
    import gi_jax as gi
    from gi_jax import images, metrics, program_cache, transparency

    program_cache.keep_programs()
    progress = sys.stderr.isatty() and not args.json
    settings = _encoding_settings(args)
    to_bytes = gi.encode if args.codec == "gaussians" else gi.encode_paper

    def encode(job: _Job) -> dict[str, Any]:
        start = time.perf_counter()
        image = images.load_image(job.source, color_management=not args.ignore_profiles)
        data = to_bytes(image, **settings, seed=args.seed, progress=progress)
        seconds = time.perf_counter() - start
        decoded = gi.decode(data) / image.dtype.type(255)
        decoded, seen = transparency.as_compared(decoded, image, args.exact)
        images.atomic_write(job.output, data, replace=args.force)
        height, width, _ = image.shape
        return {
            **_record(job, image.shape),
            "num_gaussians": gi.file_info(data).num_gaussians,
            "bytes": len(data),
            "bpp": 8 * len(data) / (height * width),
            "psnr": float(metrics.psnr(decoded, seen)),
            "ms_ssim": float(metrics.ms_ssim(decoded, seen)),
            "seconds": seconds,
        }

    line = (
        "{file} -> {output}: {bytes} bytes, {bpp:.4f} bpp, {psnr:.2f} dB PSNR, "
        "{ms_ssim:.4f} MS-SSIM, {num_gaussians} Gaussians, {seconds:.1f} s"
    )
    jobs, failures = _plan(args, images.SUFFIXES, ".gi")
    return _work(jobs, encode, line.format_map, args.json) or failures


def _decode(args: argparse.Namespace) -> int:
    import gi_jax as gi
    from gi_jax import images, program_cache

    program_cache.keep_programs()

    def decode(job: _Job) -> dict[str, Any]:
        start = time.perf_counter()
        picture = gi.decode(job.source.read_bytes(), scale=args.scale)
        seconds = time.perf_counter() - start
        images.save_image(job.output, picture, replace=args.force)
        return {**_record(job, picture.shape), "seconds": seconds}

    line = "{file} -> {output}: {width}x{height} pixels, {seconds:.1f} s"
    jobs, failures = _plan(args, (".gi",), ".png")
    return _work(jobs, decode, line.format_map, args.json) or failures


def _info(args: argparse.Namespace) -> int:
    import gi_jax as gi

    def describe(job: _Job) -> dict[str, Any]:
        info = gi.file_info(job.source.read_bytes())
        return {"file": str(job.source), **dataclasses.asdict(info)}

    def text(record: dict[str, Any]) -> str:
        sizes = record["section_bytes"] | {"total": record["num_bytes"]}
        bits = record["bits_per_gaussian"]
        lines = [
            f"{name:20}{value}"
            for name, value in record.items()
            if not isinstance(value, dict)
        ]
        lines += [f"{'section':20}{'bytes':>10}{'bits per Gaussian':>20}"]
        lines += [
            f"{name:20}{size:>10}{bits.get(name, math.nan):>20.2f}"
            for name, size in sizes.items()
        ]
        lines += [
            f"  {name:18}{'':>10}{value:>20.2f}"
            for kind in ("symbol_bits", "order_bits")
            for name, value in record.get(kind, {}).items()
        ]
        return "\n".join(lines)

    jobs = [_Job(path, path) for path in args.inputs]
    return _work(jobs, describe, text, args.json)


def _record(job: _Job, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns what is printed of every job that writes: its files and the picture."""
    files = {"file": str(job.source), "output": str(job.output)}
    return files | dict(zip(("height", "width", "channels"), shape))


def _plan(
    args: argparse.Namespace, suffixes: Sequence[str], output_suffix: str
) -> tuple[list[_Job], int]:
    """Says which file becomes which, and makes the folders that are to hold them.

    Args:
      args: `inputs`, files or folders; `output` or None; `force`.
      suffixes: of the files to take from folders.
      output_suffix: of the files to be written.

    Returns:
      The jobs, and FAILED if an input or output had to be left out, else OK.

    Raises:
      _UsageError: where outputs would replace inputs or each other.
    """
    failures = OK
    sources: list[Path] = []
    for path in args.inputs:
        found = _files_in(path, suffixes) if path.is_dir() else [path]
        if not found:
            failures = _complain(path, f"no file in it ends in {', '.join(suffixes)}")
        sources += found
    several = len(args.inputs) > 1 or any(path.is_dir() for path in args.inputs)
    jobs = []
    taken = {source.resolve() for source in sources}
    for source in sources:
        output = _output_of(source, args.output, several, output_suffix)
        if output.resolve() in taken:
            raise _UsageError(
                f"{source}: {output} is an input or the output of another one"
            )
        taken.add(output.resolve())
        if output.exists() and not output.is_file():
            failures = _complain(output, "is a folder or a device")
            continue
        if output.exists() and not args.force:
            failures = _complain(output, "exists; --force replaces it")
            continue
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            failures = _complain(source, error)
            continue
        jobs.append(_Job(source, output))
    return jobs, failures


def _files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in suffixes)


def _output_of(source: Path, output: str | None, several: bool, suffix: str) -> Path:
    """Returns where the result of `source` goes, see the help of --output."""
    if output is None:
        return source.with_suffix(suffix)
    path = Path(output)
    if path.is_dir() or output.endswith("/"):
        return path / f"{source.stem}{suffix}"
    if not several:
        return path
    if path.exists() or path.suffix == suffix:
        raise _UsageError(f"several inputs need a folder as OUT, not the file {output}")
    return path / f"{source.stem}{suffix}"


def _work(
    jobs: Sequence[_Job],
    work: Callable[[_Job], dict[str, Any]],
    text: Callable[[dict[str, Any]], str],
    as_json: bool,
) -> int:
    """Does the jobs in turn and prints a record of each; one may fail alone."""
    failures = OK
    for job in jobs:
        try:
            record = work(job)
        except Exception as error:  # Anything: the other files are to be done.
            failures = _complain(job.source, error)
            continue
        print(_to_json(record) if as_json else text(record), flush=True)
    return failures


def _complain(path: Path, error: Exception | str) -> int:
    """Prints one line about a file that failed; returns the exit code for it."""
    if isinstance(error, OSError) and error.strerror:
        message = error.strerror
        if error.filename and str(error.filename) != str(path):
            message += f": {error.filename}"
    elif isinstance(error, str | ValueError):
        message = str(error).removeprefix(f"{path}: ")
    else:
        message = f"{type(error).__name__}: {error}"
    print(f"gi: {path}: {' '.join(message.split())}", file=sys.stderr)
    return FAILED


def _to_json(record: dict[str, Any]) -> str:
    """Returns one line; numbers that JSON lacks (the PSNR of equal pictures): null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(finite)


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
