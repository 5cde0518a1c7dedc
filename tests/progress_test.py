"""The remaining time that a progress bar shows."""

import io

import pytest

from gi_jax.progress import Bar


@pytest.fixture
def bar(monkeypatch):
    clock = [0.0]
    with Bar(total=110, file=io.StringIO(), mininterval=0) as bar:
        monkeypatch.setattr(bar, "_time", lambda: clock[0])
        bar.start_t = bar.last_print_t = 0.0
        bar.clock = clock
        yield bar


def test_compiling_is_not_counted_in_the_remaining_time(bar):
    assert "?" in str(bar)
    bar.clock[0] = 30.0  # of compiling
    bar.update(1)
    assert "00:30<?" in str(bar)
    bar.clock[0] = 60.0
    bar.update(9)
    assert "01:00<?" in str(bar)
    bar.clock[0] += 0.5
    bar.update(10)
    assert "01:00<?" in str(bar)
    bar.clock[0] += 1.5
    bar.update(30)
    assert "01:02<00:03, 20.00it/s" in str(bar)  # 60 left, at 40 in 2 s
