"""Settings of all tests."""

import mmap
import os
from pathlib import Path

import jax
import jaxlib

# Nearly all of the time goes to compiling: that is to be quick, rather than thorough.
# Level 0 would be quicker still, but hides what tests of equal bits are there to find:
# that a product and a sum, compiled together, are rounded once instead of twice.
QUICK = ("--xla_backend_optimization_level=1", "--xla_cpu_use_fusion_emitters=false")

LIBRARY = Path(jaxlib.__file__).with_name("libjax_common.so")


def known_flags() -> list[str]:
    """Returns those that this jaxlib knows; XLA ends the process at any other."""
    with (
        LIBRARY.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
    ):
        names = {flag: flag.strip("-").partition("=")[0] for flag in QUICK}
        return [flag for flag in QUICK if library.find(names[flag].encode()) >= 0]


# XLA reads this when it starts, in processes that tests start too; the last one counts.
os.environ["XLA_FLAGS"] = " ".join([*known_flags(), os.environ.get("XLA_FLAGS", "")])

# Programs that were compiled once are found again: by the other worker, by processes
# that a test starts (through the environment), and by the next run.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Triton looks at this when it is imported: kernels run in its interpreter.
if jax.default_backend() != "gpu":
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list) -> None:
    """Puts first what waits longest, so that no worker is left alone with it."""
    items.sort(key=lambda item: item.path.stem not in ("sweep_test", "triton_test"))
