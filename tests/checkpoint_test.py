import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import gi_jax as gi
from tests.conftest import CACHE
from tests.helpers import photo

# Fits by the definition, which compiles fastest.
DENSE = {"implementation": "dense", "progress": False}

PROGRAM = """
    import sys, time
    import numpy as np
    import gi_jax as gi
    from gi_jax.fitting import fit as module
    module._CHECKPOINT_SECONDS = 0.0
    module._MAX_CHUNK = 16
    from tests.helpers import photo
    slow = (lambda state, metrics: time.sleep(0.3)) if sys.argv[3] == "slow" else None
    result = gi.fit(photo(32, 40), 80, 120, seed=7, checkpoint=sys.argv[1],
                    callback=slow, progress=False, implementation="dense")
    np.savez(sys.argv[2], *result.gaussians, psnr=result.history["psnr"])
"""


def run_program(tmp_path, checkpoint, out, speed):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return subprocess.Popen(
        [sys.executable, script, tmp_path / checkpoint, tmp_path / out, speed],
        env={
            **os.environ,
            "PYTHONPATH": root,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        },
    )


def test_a_killed_fit_goes_on_to_the_same_parameters(tmp_path):
    assert run_program(tmp_path, "whole.npz", "whole_out.npz", "fast").wait() == 0
    process = run_program(tmp_path, "killed.npz", "killed_out.npz", "slow")
    checkpoint = tmp_path / "killed.npz"
    # The first checkpoint is that of the start: wait for some of steps.
    versions, deadline = set(), time.time() + 120
    while len(versions) < 4 and time.time() < deadline:
        if checkpoint.exists():
            versions.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.exists() and not (tmp_path / "killed_out.npz").exists()
    assert run_program(tmp_path, "killed.npz", "killed_out.npz", "fast").wait() == 0
    whole, killed = (
        np.load(tmp_path / f"{name}_out.npz") for name in ("whole", "killed")
    )
    assert whole.files == killed.files
    for name in whole.files:
        np.testing.assert_array_equal(whole[name], killed[name])


def test_a_file_of_one_array_is_no_checkpoint(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(ValueError, match="expected a checkpoint"):
        gi.fit(np.zeros((8, 8, 3)), 5, 2, checkpoint=path, progress=False)


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    path = tmp_path / "fit.npz"
    image = photo(16, 16)
    gi.fit(image, 10, 25, checkpoint=path, **DENSE)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another fit"):
        gi.fit(image, 10, 25, seed=1, checkpoint=path, **DENSE)
    with pytest.raises(ValueError, match="another fit"):
        gi.fit(1 - image, 10, 25, checkpoint=path, **DENSE)
    with pytest.raises(ValueError, match="another fit"):
        turned = image.reshape(8, 32, 3)
        gi.fit(turned, 10, 25, checkpoint=path, **DENSE)
    with pytest.raises(ValueError, match="a preset and a loss by name"):
        gi.fit(image, 10, 25, loss=gi.psnr, checkpoint=path, **DENSE)
    assert path.read_bytes() == before
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="expected a checkpoint"):
        gi.fit(image, 10, 25, checkpoint=path, **DENSE)


def test_a_bad_path_is_found_before_the_work(tmp_path):
    def never(state, metrics):
        raise AssertionError("the fit began")

    with pytest.raises(OSError):
        gi.fit(
            photo(16, 16),
            10,
            25,
            checkpoint=tmp_path / "missing" / "fit.npz",
            callback=never,
            **DENSE,
        )


def test_a_callback_may_keep_what_it_gets():
    states = []
    gi.fit(
        photo(16, 16),
        10,
        25,
        callback=lambda state, metrics: states.append(state),
        **DENSE,
    )
    steps = [int(state.step) for state in states]
    assert steps == sorted(steps) and len(steps) > 1
