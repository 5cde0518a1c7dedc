"""Progress bars whose remaining time is worth something, or is not shown."""

from typing import Any, Final

from tqdm import tqdm

# Seconds of steps, after the first ones, that the remaining time is told from.
_LEAST_SECONDS: Final = 1.0

# The first updates: a single step, and a chunk of steps, are a program each.
_COMPILING_UPDATES: Final = 2


class Bar(tqdm):
    """A bar of `tqdm` that leaves compiling out of its rate and remaining time.

    The first steps hold what the compiler takes, many times what they take themselves.
    So the rate is that of the steps after them, and '?' until there are enough.
    """

    _updates = 0
    _first: tuple[float, float] | None = None  # n and the time after the first steps

    def update(self, n: float | None = 1) -> bool | None:
        """Adds steps that were done."""
        self._updates += 1
        if self._updates == _COMPILING_UPDATES and not self.disable:
            self._first = self.n + (n or 0), self._time()
        return super().update(n)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What is shown; a rate of 0 is shown as '?'."""
        values = super().format_dict
        values["rate"] = 0
        if self._first is not None:
            first, since = self._first
            seconds = self._time() - since
            if seconds >= _LEAST_SECONDS and self.n > first:
                values["rate"] = (self.n - first) / seconds
        return values
