"""Ctrl-C, SIGTERM and SIGHUP end a command at once, and leave nothing half-written.

Python's own way is an exception, which arrives late or never: the call of XLA that
compiles a program comes first, and an exception inside one of JAX's callbacks of the
garbage collector is dropped. Here the process removes its unfinished files, says so in
one line, and ends. This module imports nothing slow, so that it can be the first.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

_WORDS: Final = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
_NAMES: Final = {
    int(getattr(signal, name)): word
    for name, word in _WORDS.items()
    if hasattr(signal, name)
}

# Seconds that the main thread has to end the process by itself, between two of its
# instructions. In a long call of XLA it has none; then another thread ends the process.
_GRACE: Final = 0.2

_unfinished: set[str] = set()
_last_acts: list[Callable[[], object]] = []
_lines_left: list[str] = []  # The line is said once, by whichever thread takes it.


def end_on_signals(command: str) -> None:
    """Has SIGINT, SIGTERM and SIGHUP end this process, at any moment from now on.

    The exit code is 128 + the number of the signal, as shells have it. A signal that
    the process was started to ignore, as by nohup, stays ignored.

    Args:
      command: the name that the line on standard error begins with.
    """
    _lines_left[:] = [command]
    watched = [s for s in _NAMES if signal.getsignal(s) is not signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_watch, args=(reader, watched), daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in watched:
        signal.signal(number, lambda number, frame: _end(number))


@contextlib.contextmanager
def removed_if_interrupted(path: str | os.PathLike[str]) -> Iterator[None]:
    """While the block runs, a signal that ends the process also removes this file."""
    name = os.path.abspath(path)
    _unfinished.add(name)
    try:
        yield
    finally:
        _unfinished.discard(name)


def before_the_end(act: Callable[[], object]) -> None:
    """Has a signal that ends the process call this first; it has to be quick."""
    _last_acts.append(act)


def _watch(reader: int, watched: list[int]) -> None:
    while True:
        number = os.read(reader, 1)[0]
        if number in watched:
            time.sleep(_GRACE)
            _end(number)


def _end(number: int) -> None:
    """Ends the process. It takes no lock: the main thread may hold any."""
    for path in [*_unfinished]:
        with contextlib.suppress(OSError):
            os.unlink(path)
    for act in _last_acts:
        with contextlib.suppress(Exception):
            act()
    with contextlib.suppress(IndexError, OSError):
        command = _lines_left.pop()
        newline = "\n" if os.isatty(2) else ""  # after ^C, or a progress bar
        os.write(2, f"{newline}{command}: {_NAMES[number]}\n".encode())
    os._exit(128 + number)
