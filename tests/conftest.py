"""Settings of all tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Nearly all of the time goes to compiling: that is to be quick, rather than thorough.
# Level 0 would be quicker still, but hides what tests of equal bits are there to find:
# that a product and a sum, compiled together, are rounded once instead of twice.
# Fusion emitters, which XLA has in jax 0.10 but not in 0.12, cost a third more.
QUICK = ("--xla_backend_optimization_level=1", "--xla_cpu_use_fusion_emitters=false")


def why_refused(flags: str) -> str:
    """Returns what XLA says when it ends a process over its flags, or ''."""
    tried = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    return tried.stderr.strip() if tried.returncode else ""


def set_quick_flags() -> None:
    """Adds those of `QUICK` that XLA knows to XLA_FLAGS, behind which the user's count.

    XLA ends the process at a flag that it does not know, and its reason is lost in what
    pytest captures: so flags are tried in another process first.
    """
    own = os.environ.get("XLA_FLAGS", "")
    quick = " ".join([*QUICK, own])
    if why_refused(quick):
        if reason := why_refused(own):
            pytest.exit(f"JAX does not start with XLA_FLAGS={own!r}:\n{reason}", 1)
        known = [flag for flag in QUICK if not why_refused(flag)]
        quick = " ".join([*known, own])
    os.environ["XLA_FLAGS"] = quick


# XLA reads its flags when it starts. Workers, and processes that tests start, take them
# from the environment.
if "PYTEST_XDIST_WORKER" not in os.environ:
    set_quick_flags()

import jax  # noqa: E402

# Programs that were compiled once are found again: by the other worker, by processes
# that a test starts (through the environment), and by the next run.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Triton looks at this when it is imported: kernels run in its interpreter.
if jax.default_backend() != "gpu":
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo) -> Iterator[None]:
    """Shows what a process that a test started, and that failed, had to say."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        said = error.stderr
        said = said if isinstance(said, str) else said.decode(errors="replace")
        report.sections.append((f"stderr of {error.cmd}", said))
    return report


def pytest_collection_modifyitems(items: list) -> None:
    """Puts first what waits longest, so that no worker is left alone with it."""
    items.sort(key=lambda item: item.path.stem not in ("sweep_test", "triton_test"))
