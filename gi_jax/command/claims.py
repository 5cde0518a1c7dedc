"""Outputs that one process has claimed, so that no other one makes them too."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gi_jax.interruption import removed_if_interrupted

try:
    import fcntl
except ImportError:  # Not a Unix: nothing is claimed.
    fcntl = None  # type: ignore[assignment]

# What a file system says that has no locks.
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class ClaimedError(ValueError):
    """Another process is making this output."""


@contextlib.contextmanager
def claim(output: Path) -> Iterator[None]:
    """Has the block make a file that no other process makes at the same time.

    A hidden file beside the output is locked, and removed at the end. The lock is the
    process's own: where it is killed, the lock is gone, and the file that stays behind
    holds nobody up.

    Args:
      output: the file that is to be made.

    Raises:
      ClaimedError: where another process has claimed it.
      OSError: where no file can be made there, with the name of the output.
    """
    digest = hashlib.sha256(os.fsencode(output.name)).hexdigest()
    path = output.with_name(f".{digest[:16]}.lock")
    with removed_if_interrupted(path):
        descriptor = _lock(path, output)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _lock(path: Path, output: Path) -> int:
    """Returns the descriptor of a file that is locked and has its name."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(output)) from error
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ClaimedError(f"{output}: another process is making it") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise OSError(error.errno, error.strerror, str(output)) from error
        # Its last holder may have removed it between the two calls.
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
        os.close(descriptor)
