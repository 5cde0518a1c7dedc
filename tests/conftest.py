"""Settings of all tests."""

import os
from pathlib import Path

import jax

# Programs that were compiled once are found again: by the other worker, by processes
# that a test starts (through the environment), and by the next run.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"

jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Triton looks at this when it is imported: kernels run in its interpreter.
if jax.default_backend() != "gpu":
    os.environ["TRITON_INTERPRET"] = "1"
