"""`gi encode`, `gi decode` and `gi info`: each file in turn, and a line about it."""

import argparse
import dataclasses
import errno
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gi_jax.command.claims import ClaimedError, claim
from gi_jax.command.files import Job, Kind, identity, plan
from gi_jax.command.flags import UsageError, encoding_settings
from gi_jax.command.printing import (
    FAILED,
    INTERRUPTED,
    OK,
    USAGE,
    complain,
    info_text,
    to_json,
)


class _Result(NamedTuple):
    record: dict[str, Any]
    write: Callable[[], None]  # writes the output


def main(args: argparse.Namespace) -> int:
    """Does what the parsed command line says; returns the exit code."""
    commands = {"encode": _encode, "decode": _decode, "info": _info}
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            return commands[args.command](args)
    except UsageError as error:
        print(f"gi: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:  # Where the caller's process has Python's own handler.
        print("gi: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # As in `gi info *.gi | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _print_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Prints what a warning says, without the place in the code."""
    print(f"gi: warning: {message}", file=sys.stderr)


def _encode(args: argparse.Namespace) -> int:
    import gi_jax as gi
    from gi_jax import images, metrics, transparency

    progress = sys.stderr.isatty() and not args.json
    settings = encoding_settings(args)
    to_bytes = gi.encode if args.codec == "gaussians" else gi.encode_paper

    def encode(job: Job) -> _Result:
        start = time.perf_counter()
        image = images.load_image(job.source, color_management=not args.ignore_profiles)
        data = to_bytes(image, **settings, seed=args.seed, progress=progress)
        seconds = time.perf_counter() - start
        decoded = gi.decode(data) / image.dtype.type(255)
        decoded, seen = transparency.as_compared(decoded, image, args.exact)
        height, width, _ = image.shape
        record = {
            **_record(job, image.shape),
            "num_gaussians": gi.file_info(data).num_gaussians,
            "bytes": len(data),
            "bpp": 8 * len(data) / (height * width),
            "psnr": float(metrics.psnr(decoded, seen)),
            "ms_ssim": float(metrics.ms_ssim(decoded, seen)),
            "seconds": seconds,
        }
        write = images.atomic_write
        return _Result(record, lambda: write(job.output, data, replace=args.force))

    line = (
        "{file} -> {output}: {bytes} bytes, {bpp:.4f} bpp, {psnr:.2f} dB PSNR, "
        "{ms_ssim:.4f} MS-SSIM, {num_gaussians} Gaussians, {seconds:.1f} s"
    )
    kind = Kind(images.SUFFIXES, (".gi",), ".gi", ".gi")
    return _make_files(args, kind, encode, line)


def _decode(args: argparse.Namespace) -> int:
    import gi_jax as gi
    from gi_jax import images

    def decode(job: Job) -> _Result:
        start = time.perf_counter()
        picture = gi.decode(job.source.read_bytes(), scale=args.scale)
        seconds = time.perf_counter() - start
        record = {**_record(job, picture.shape), "seconds": seconds}
        save = images.save_image
        return _Result(record, lambda: save(job.output, picture, replace=args.force))

    line = "{file} -> {output}: {width}x{height} pixels, {seconds:.1f} s"
    kind = Kind((".gi",), images.WRITABLE_SUFFIXES, ".png", ".decoded.png")
    return _make_files(args, kind, decode, line)


def _info(args: argparse.Namespace) -> int:
    import gi_jax as gi

    def describe(job: Job) -> None:
        info = gi.file_info(job.source.read_bytes())
        record = {"file": str(job.source), **dataclasses.asdict(info)}
        print(to_json(record) if args.json else info_text(record), flush=True)

    return _each([Job(path, path) for path in args.inputs], describe)


def _record(job: Job, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns what is printed of every job that writes: its files and the picture."""
    files = {"file": str(job.source), "output": str(job.output)}
    return files | dict(zip(("height", "width", "channels"), shape))


def _make_files(
    args: argparse.Namespace, kind: Kind, make: Callable[[Job], _Result], line: str
) -> int:
    """Makes the output of each input, and prints a record of it."""
    from gi_jax import program_cache

    folder = program_cache.keep_programs()

    def do(job: Job) -> None:
        try:
            with claim(job.output):
                if identity(job.output) != job.before:
                    raise FileExistsError(errno.EEXIST, "", str(job.output))
                record, write = make(job)
                write()
        finally:
            program_cache.drop_oldest(folder)
        text = to_json(record) if args.json else line.format_map(record)
        print(text, flush=True)

    jobs, failures = plan(args, kind)
    return _each(jobs, do) or failures


def _each(jobs: Sequence[Job], do: Callable[[Job], None]) -> int:
    """Does the jobs in turn; one may fail alone."""
    failures = OK
    for job in jobs:
        try:
            do(job)
        except BrokenPipeError:
            raise
        except Exception as error:  # Anything: the other files are to be done.
            failures = complain(_culprit(job, error), error)
    return failures


def _culprit(job: Job, error: Exception) -> Path:
    """Returns the file that an error is about."""
    if isinstance(error, ClaimedError):
        return job.output
    of_output = isinstance(error, OSError) and error.filename == str(job.output)
    return job.output if of_output else job.source
