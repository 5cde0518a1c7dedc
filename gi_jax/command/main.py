"""`gi encode`, `gi decode` and `gi info`: each file in turn, and a line about it."""

import argparse
import dataclasses
import errno
import os
import sys
import time
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
    complain_of_output,
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


def _encode(args: argparse.Namespace) -> int:
    import gi_jax as gi
    from gi_jax import images, metrics

    progress = sys.stderr.isatty() and not args.json
    settings = encoding_settings(args)
    to_bytes = gi.encode if args.codec == "gaussians" else gi.encode_paper

    def encode(job: Job) -> _Result:
        start = time.perf_counter()
        image = images.load_image(job.source)
        data = to_bytes(image, **settings, seed=args.seed, progress=progress)
        seconds = time.perf_counter() - start
        decoded = gi.decode(data) / image.dtype.type(255)
        height, width, _ = image.shape
        record = {
            **_record(job, image.shape),
            "num_gaussians": gi.file_info(data).num_gaussians,
            "bytes": len(data),
            "bpp": 8 * len(data) / (height * width),
            "psnr": float(metrics.psnr(decoded, image)),
            "ms_ssim": float(metrics.ms_ssim(decoded, image)),
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

    def describe(path: Path) -> None:
        info = gi.file_info(path.read_bytes())
        record = {"file": str(path), **dataclasses.asdict(info)}
        print(to_json(record) if args.json else info_text(record), flush=True)

    return _each(args.inputs, describe, lambda path: path)


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
                    # Another process was quicker.
                    text = os.strerror(errno.EEXIST)
                    raise FileExistsError(errno.EEXIST, text, str(job.output))
                record, write = make(job)
                write()
        finally:
            program_cache.drop_oldest(folder)
        text = to_json(record) if args.json else line.format_map(record)
        print(text, flush=True)

    jobs, failures = plan(args, kind)
    return _each(jobs, do, lambda job: job.source, lambda job: job.output) or failures


def _each(
    items: Sequence[Any],
    do: Callable[[Any], None],
    source: Callable[[Any], Path],
    output: Callable[[Any], Path | None] = lambda item: None,
) -> int:
    """Does something with each of several files; one may fail alone."""
    failures = OK
    for item in items:
        try:
            do(item)
        except BrokenPipeError:
            raise
        except ClaimedError as error:
            failures = complain(output(item), str(error))
        except Exception as error:  # Anything: the other files are to be done.
            place = output(item)
            if isinstance(error, OSError) and error.filename == str(place):
                failures = complain_of_output(place, error)
            else:
                failures = complain(source(item), error)
    return failures
