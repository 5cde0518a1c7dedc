"""Settings of all tests."""

import os
from pathlib import Path

# Nearly all of the time goes to compiling: that is to be quick, rather than thorough.
# XLA reads this when it starts, in processes that tests start too.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"
)

import jax

# Programs that were compiled once are found again: by the other worker, by processes
# that a test starts (through the environment), and by the next run.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Triton looks at this when it is imported: kernels run in its interpreter.
if jax.default_backend() != "gpu":
    os.environ["TRITON_INTERPRET"] = "1"
