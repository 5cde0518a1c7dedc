"""Which file becomes which."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gi_jax.command.flags import UsageError
from gi_jax.command.printing import OK, complain


class Job(NamedTuple):
    """A file to read and one to write."""

    source: Path
    output: Path
    before: tuple[int, ...] | None = None  # what stood there, see `identity`


class Kind(NamedTuple):
    """What a command reads and writes; suffixes in small letters."""

    inputs: Sequence[str]  # of the files to take from folders
    outputs: Sequence[str]  # that the name of a file to be written may end in
    suffix: str  # of the files that it names itself
    beside: str  # the same, for those in the folder of their input


def plan(args: argparse.Namespace, kind: Kind) -> tuple[list[Job], int]:
    """Says which file becomes which, and makes the folders that are to hold them.

    Args:
      args: `inputs`, files or folders; `output` or None; `force`.
      kind: the suffixes.

    Returns:
      The jobs, and FAILED if an input or output had to be left out, else OK.

    Raises:
      UsageError: where outputs would replace inputs, or have a wrong name.
    """
    failures = OK
    sources: list[Path] = []
    for path in args.inputs:
        found = _files_in(path, kind.inputs) if path.is_dir() else [path]
        if not found:
            text = f"no file in it ends in {', '.join(kind.inputs)}"
            failures = complain(path, text)
        sources += found
    several = len(args.inputs) > 1 or any(path.is_dir() for path in args.inputs)
    inputs = {source.resolve() for source in sources}
    if len(inputs) < len(sources):
        raise UsageError("an input is given twice")
    outputs = _outputs(sources, args.output, several, kind)
    for source, output in outputs.items():
        if output.resolve() in inputs:
            raise UsageError(f"{source}: its output {output} is an input")
    jobs = []
    taken: dict[Path, Path] = {}
    for source, output in outputs.items():
        other = taken.setdefault(output.resolve(), source)
        if other is not source:
            text = f"{output} is the output of {other} already"
            failures = complain(source, text)
            continue
        if output.exists() and not output.is_file():
            failures = complain(output, "is a folder or a device")
            continue
        if output.exists() and not args.force:
            failures = complain(output, "exists; --force replaces it")
            continue
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            failures = complain(output, f"{output.parent} is not a folder")
            continue
        except OSError as error:
            failures = complain(output, error)
            continue
        jobs.append(Job(source, output, identity(output)))
    return jobs, failures


def identity(path: Path) -> tuple[int, ...] | None:
    """Returns what tells a file from one that replaces it; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    files = (path for path in folder.iterdir() if path.is_file())
    return sorted(path for path in files if path.suffix.lower() in suffixes)


def _outputs(
    sources: Sequence[Path], output: str | None, several: bool, kind: Kind
) -> dict[Path, Path]:
    """Returns where the result of each input goes, see the help of --output."""
    folder = _folder(output, several, kind)
    if output is not None and folder is None:
        return {source: Path(output) for source in sources}
    same: dict[Path, list[Path]] = defaultdict(list)
    for source in sources:
        same[_named(source, source.stem, folder, kind)].append(source)
    outputs = {}
    for name, group in same.items():
        for source in group:
            # Where only suffixes differ, as of photo.jpg and photo.png, they stay.
            apart = len(group) > 1 and len({s.name for s in group}) == len(group)
            outputs[source] = (
                _named(source, source.name, folder, kind) if apart else name
            )
    return outputs


def _named(source: Path, stem: str, folder: Path | None, kind: Kind) -> Path:
    folder = source.parent if folder is None else folder
    beside = folder.resolve() == source.parent.resolve()
    return folder / f"{stem}{kind.beside if beside else kind.suffix}"


def _folder(output: str | None, several: bool, kind: Kind) -> Path | None:
    """Returns the folder that --output names, or None where it names a file or none.

    Raises:
      UsageError: where it names a file that the results cannot be.
    """
    if output is None:
        return None
    path = Path(output)
    if path.is_dir() or output.endswith("/"):
        return path
    if several:
        named = {*kind.inputs, *kind.outputs}
        if path.exists() or path.suffix.lower() in named:
            text = f"several inputs need a folder as OUT, not the file {output}"
            raise UsageError(text)
        return path
    if path.suffix.lower() not in kind.outputs:
        names = ", ".join(kind.outputs)
        text = f"{output}: expected a name that ends in {names}, or a folder, as OUT/"
        raise UsageError(text)
    return None
