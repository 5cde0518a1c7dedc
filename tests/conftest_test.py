"""XLA ends a process over a flag that it does not know: the reason is to be seen."""

import os
import subprocess
import sys

import pytest

from tests.conftest import why_refused


@pytest.mark.parametrize("flags", ["", "--xla_backend_optimization_level=1"])
def test_flags_that_xla_knows(flags):
    assert not why_refused(flags)


def test_flags_that_xla_does_not_know():
    assert "--xla_no_such_flag" in why_refused("--xla_no_such_flag=1")


def test_a_session_that_cannot_start_says_why():
    environment = os.environ | {"XLA_FLAGS": "--xla_no_such_flag=1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    session = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "tests/conftest_test.py"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert session.returncode != 0
    assert "Unknown flag in XLA_FLAGS" in session.stdout + session.stderr
