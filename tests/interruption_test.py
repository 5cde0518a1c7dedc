"""Signals end the command at any moment, with one line and nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gi_jax import images

# Runs the command. The process sends itself a signal at a moment, told by what Python
# reports to audit hooks, and only then goes on with it.
SCRIPT = """
import gc, os, signal, sys, threading, time
number, moment = int(sys.argv.pop(1)), sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
done = []

def send():
    if not done:
        done.append(True)
        os.kill(os.getpid(), number)

def collecting(phase, info):  # Python drops exceptions in here.
    gc.callbacks.remove(collecting)
    send()

def hook(event, args):
    if event == "import":
        event = f"import {args[0]}"
    elif event == "open":
        event = f"open {str(args[0])[-4:]}"
    if moment == event:
        send()
    elif moment == "in a callback of gc" and event == "import gi_jax.encoder":
        gc.callbacks.append(collecting)
    elif moment.startswith("after ") and event == "import gi_jax.encoder":
        threading.Timer(float(moment.split()[1]), send).start()

sys.addaudithook(hook)
from gi_jax import cli
if moment == "in a long call":  # As of XLA: no signal handler runs in between.
    import hashlib, gi_jax as gi
    def call(*args, **kwargs):
        threading.Timer(0.1, send).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    gi.encode = call
if moment in ("open .tmp", "os.link", "os.rename"):
    import gi_jax as gi, numpy as np
    from gi_jax import metrics
    gi.encode = lambda *args, **kwargs: b"whole"
    gi.decode = lambda *args: np.zeros((16, 16, 3), np.uint8)
    gi.file_info = lambda *args: gi
    gi.num_gaussians = 1
    metrics.psnr = metrics.ms_ssim = lambda *args: 1.0
sys.argv[0] = "gi"
cli.run()
"""

MOMENTS = [
    "import argparse",
    "import absl.app",
    "import numpy",
    "import jax",
    "import jax._src.xla_bridge",
    "import optax",
    "import gi_jax.encoder",
    "in a callback of gc",
    "after 0.3 s",
    "after 2 s",
    "in a long call",
    "open .tmp",
    "os.link",
]
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_the_command(tmp_path, moment):
    # Moments take turns at the signals: each pair would take another process.
    name = [*WORDS][MOMENTS.index(moment) % 2] if moment != "os.link" else "SIGHUP"
    number = getattr(signal, name)
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    images.save_image(photo, np.full((16, 16, 3), 99, np.uint8))
    args = [str(int(number)), moment, "encode", str(photo), "-o", f"{out}/"]
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *args, "--effort=1"],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        timeout=60,
    )
    assert process.stderr == f"gi: {WORDS[name]}\n"
    assert process.returncode == 128 + number
    assert process.stdout == ""
    assert time.monotonic() - start < 40
    left = [path.name for path in out.iterdir()] if out.exists() else []
    # The file has its name already, and all its bytes.
    assert left in ([], ["photo.gi"])
    assert not left or (out / "photo.gi").read_bytes() == b"whole"


def test_what_was_ignored_stays_ignored():
    script = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from gi_jax.interruption import end_on_signals\n"
        "end_on_signals('gi')\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "print('alive')"
    )
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output == "alive\n"
