"""The entry point of the command `gi`: pictures to .gi files and back.

This module is loaded before anything that takes time, so that Ctrl-C in the first
moment already ends the command as it does later.
"""

from gi_jax.interruption import end_on_signals


def run() -> None:
    """Runs the command line, and ends the process with its exit code."""
    end_on_signals("gi")
    from absl import app, logging

    from gi_jax.command.flags import parse
    from gi_jax.command.main import main

    # JAX informs about every backend that it does not find.
    app.call_after_init(lambda: logging.set_verbosity(logging.WARNING))
    app.run(main, flags_parser=parse)
