"""Times a function on a device: after warm-up, synchronised, median of several runs."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class count_compilations:
    """A context in which the programs that XLA compiles are counted.

    Attributes:
      count: programs.
      seconds: that compiling them took.
    """

    def __enter__(self) -> "count_compilations":
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event: str, duration_secs: float, **details: Any) -> None:
        if "backend_compile" in event:
            self.count += 1
            self.seconds += duration_secs

    def __exit__(self, *error: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


class peak_memory:
    """A context in which the most memory of the device at a time is noted.

    A device tells the peak since the process began: only where it rises in the context
    is it the context's own.

    Attributes:
      bytes: the peak, or None where it is not known.
    """

    def __enter__(self) -> "peak_memory":
        self.bytes: int | None = None
        self._before = _peak_bytes()
        return self

    def __exit__(self, *error: Any) -> None:
        after = _peak_bytes()
        if after > self._before:
            self.bytes = after


def _peak_bytes() -> int:
    """Returns the most bytes in use so far, 0 where the device does not tell."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def allotted_bytes(function: Callable, *arguments: Any) -> int | None:
    """Returns the memory that XLA allots to a program, data and results included.

    Args:
      function: of arrays; it is compiled, not run.
      *arguments: arrays, or their shapes.
    """
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    if memory is None:
        return None
    return (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def measure(
    function: Callable,
    arguments: tuple,
    repeats: int,
    calls: int = 1,
    compiler_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Compiles and times a function.

    Args:
      function: of arrays.
      arguments: its arguments.
      repeats: runs.
      calls: of the function in a run, one after the other in one program, so that
        starting a program does not count where the function takes microseconds.
      compiler_options: XLA's, instead of its defaults.

    Returns:
      Milliseconds per call (median and quartiles), seconds to compile, bytes of memory
      beyond arguments and results, and compilations after the first run.
    """
    repeated = _repeated(function, calls) if calls > 1 else function
    jitted = jax.jit(repeated, compiler_options=compiler_options)
    start = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()

    def run():
        jax.block_until_ready(jitted(*arguments))

    run()
    with count_compilations() as compilations:
        times = time_runs(run, repeats, calls)
    return times | {
        "compile_seconds": compile_seconds,
        "memory_bytes": memory.temp_size_in_bytes if memory else None,
        "recompilations": compilations.count,
    }


def frames_per_second(
    render: Callable, gaussians: Any, image_size: tuple[int, int], repeats: int
) -> float:
    """Returns 1 / the median seconds from parameters to a picture that is there.

    Args:
      render: (gaussians, image_size) -> picture; it is compiled here.
      gaussians: what is drawn.
      image_size: H, W in pixels.
      repeats: frames.
    """
    draw = jax.jit(render, static_argnums=1)
    times = time_runs(
        lambda: jax.block_until_ready(draw(gaussians, image_size)), repeats
    )
    return 1e3 / times["milliseconds"]


def time_runs(run: Callable[[], Any], repeats: int, calls: int = 1) -> dict[str, Any]:
    """Times a function of no arguments that returns when its work is done.

    Returns:
      Milliseconds per call: median and quartiles.
    """
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start) / calls)
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
    return {"milliseconds": middle, "quartiles": [low, high]}


def calls_of_20_ms(function: Callable, arguments: tuple) -> int:
    """Returns how many calls of a function take about 20 ms, 200 at most."""
    jitted = jax.jit(function)
    once = time_runs(lambda: jax.block_until_ready(jitted(*arguments)), 3)
    return int(np.clip(20 / once["milliseconds"], 1, 200))


def _repeated(function, calls):
    """Calls a function several times; no call can be left out or moved out."""

    def many(*arguments):
        def call(carry, _):
            # The arguments of the next call seem to depend on the results of this one.
            # Both go on from here: what is not used of a barrier is taken out of it.
            results = function(*carry[0])
            return jax.lax.optimization_barrier((carry[0], results)), None

        shapes = jax.eval_shape(function, *arguments)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(call, (arguments, nothing), length=calls)[0][1]

    return many
