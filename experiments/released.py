r"""The released GaussianImage and this library on the same picture and the same GPU.

    python -m experiments.released --checkout=../GaussianImage --image=kodim05.png \
        --workdir=results/released

Needs the code of arXiv:2403.08551 as its authors released it, PyTorch, and its CUDA
extension `gsplat` built for that PyTorch. None of it is part of this project: it is
called as it is, for measuring alone. The two sides run in processes of their own, one
after the other. In the workdir:

  released.json, ours.json: what each side measured, with machine, versions and commit
  released-N.npz: the Gaussians that the released code found, which both sides draw, and
    its picture of them
  summary.md: both side by side

What is measured, every time with a device that has finished, after a warm-up:
  frames per second: from parameters to pictures, many calls and one wait at their end
  training steps per second: of the released loop as it is; of our step, which draws the
    same Gaussians, in one program
  memory: the peak, as PyTorch and XLA each report their own
  time to quality: what the released code reaches in `full_steps`, PSNR of the 8-bit
    picture, and how long our fits take to reach that
  difference: between the two pictures of the same Gaussians. The released code draws at
    most 256 Gaussians in a tile, and only within three sigma.
"""

import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from tqdm import tqdm

from experiments.config import check_least, integers, run_script, setting
from experiments.markdown import fixed, mebibytes, table
from experiments.measure import time_runs
from experiments.records import write_json
from gi_jax.images import atomic_write, load_image

# Budgets of our fits that are tried until one is as good as the released code's.
_BUDGETS: Final = 50, 100, 200, 500, 1000, 2000

_FRAMES: Final = 100  # Calls of one measurement.
_WARM_UP: Final = 50  # Steps before a measurement.
_CHUNK: Final = 1000  # Steps between two looks at the picture.

# What the released modules import and these measurements do not use.
_UNUSED: Final = {
    "pytorch_msssim": ("ms_ssim", "ssim"),
    "vector_quantize_pytorch": ("VectorQuantize", "ResidualVQ"),
    "constriction": (),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure."""

    checkout: str = setting(help="folder of the released code, with its gsplat built")
    image: str = setting(help="picture file")
    workdir: str = setting(help="folder for the results, made if it does not exist")
    num_gaussians: str = setting("3000,10000,70000", help="numbers, by commas")
    steps: int = setting(2000, help="training steps that are timed")
    full_steps: int = setting(50_000, help="steps of a whole fit; 0 for none")
    full_gaussians: int = setting(70_000, help="Gaussians of the whole fit")
    repeats: int = setting(9, help="runs of each measurement")
    side: Literal["both", "released", "ours"] = setting("both", help="what to run")

    def __post_init__(self) -> None:
        integers("num_gaussians", self.num_gaussians)
        check_least(self, steps=1, full_steps=0, full_gaussians=1, repeats=1)

    def counts(self) -> list[int]:
        """Returns the numbers of Gaussians, the small ones first."""
        return sorted(integers("num_gaussians", self.num_gaussians))


def psnr_of_8_bits(picture: np.ndarray, image: np.ndarray) -> float:
    """Returns the PSNR in dB of a picture rounded to 8 bits.

    By NumPy, unlike `gi_jax.metrics.psnr`: where the released code is measured JAX may
    not start, since it would take most of the GPU's memory.
    """
    rounded = np.round(np.clip(picture, 0, 1) * 255) / 255
    return float(-10 * np.log10(np.mean((rounded - image) ** 2)))


def measure_released(config: Config) -> dict[str, Any]:
    """Trains and draws by the released code; writes its Gaussians and what it found."""
    import torch

    new_model = _released_model(Path(config.checkout))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image = load_image(config.image)[:, :, :3]
    target = torch.tensor(image).permute(2, 0, 1)[None].contiguous().to(device)

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def start(count):
        torch.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        return new_model(count, image.shape[:2], device)

    def draw(model):
        with torch.no_grad():
            picture = model()["render"]
        return picture[0].permute(1, 2, 0).cpu().numpy()

    def train(model, steps):
        wait()
        begin = time.perf_counter()
        for _ in range(steps):
            model.train_iter(target)
        wait()
        return time.perf_counter() - begin

    def frames(model):
        with torch.no_grad():
            for _ in range(_FRAMES):
                model()
            wait()

    points: list[dict[str, Any]] = []
    curve: list[dict[str, float]] = []
    found = {"torch": torch.__version__, "points": points, "curve": curve}
    place = Path(config.workdir) / "released.json"
    for count in config.counts():
        model = start(count)
        train(model, _WARM_UP)
        seconds = train(model, config.steps)
        speed = time_runs(functools.partial(frames, model), config.repeats, _FRAMES)
        with torch.no_grad():
            arrays = {
                "xyz": model.get_xyz,
                "cholesky": model.get_cholesky_elements,
                "colors": model.get_features,
            }
            arrays = {name: x.cpu().numpy() for name, x in arrays.items()}
        picture = draw(model)
        file = Path(config.workdir) / f"released-{count}.npz"
        np.savez(file, picture=picture, **arrays)
        points.append(
            {
                "num_gaussians": count,
                "frames_per_second": 1e3 / speed["milliseconds"],
                "steps_per_second": config.steps / seconds,
                "memory_bytes": (
                    torch.cuda.max_memory_allocated() if device.type == "cuda" else None
                ),
                "psnr": psnr_of_8_bits(picture, image),
            }
        )
        write_json(place, found)
        print(json.dumps(points[-1]), flush=True)

    if config.full_steps:
        model, seconds = start(config.full_gaussians), 0.0
        with tqdm(total=config.full_steps, desc="released fit", unit="step") as bar:
            for done in range(0, config.full_steps, _CHUNK):
                steps = min(_CHUNK, config.full_steps - done)
                seconds += train(model, steps)
                psnr = psnr_of_8_bits(draw(model), image)
                curve.append({"step": done + steps, "seconds": seconds, "psnr": psnr})
                write_json(place, found)
                bar.update(steps)
    return found


def _released_model(checkout: Path) -> Callable:
    """Returns (number, (H, W), device) -> the released model, at its random start."""
    if not (checkout / "gaussianimage_cholesky.py").exists():
        raise ValueError(
            f"checkout: expected the released GaussianImage in {checkout}, found no "
            "gaussianimage_cholesky.py"
        )
    for name, attributes in _UNUSED.items():
        if importlib.util.find_spec(name) is None:
            module = types.ModuleType(name)
            vars(module).update(dict.fromkeys(attributes))
            sys.modules[name] = module
    sys.path.insert(0, str(checkout))
    from gaussianimage_cholesky import GaussianImage_Cholesky  # type: ignore

    def new_model(count, size, device):
        model = GaussianImage_Cholesky(
            loss_type="L2",
            opt_type="adan",
            num_points=count,
            H=size[0],
            W=size[1],
            BLOCK_H=16,
            BLOCK_W=16,
            device=device,
            lr=1e-3,
            quantize=False,
        )
        return model.to(device)

    return new_model


def measure_ours(config: Config) -> dict[str, Any]:
    """Draws what the released code found, and fits; writes what came of it."""
    import jax
    import jax.numpy as jnp

    import gi_jax as gi
    from experiments.machine import describe_machine
    from experiments.measure import measure, peak_memory

    image = load_image(config.image)[:, :, :3]
    height, width = size = image.shape[:2]
    fit_step = gi.make_fit_step()

    @jax.jit
    def draw(gaussians):
        return gi.rasterize(gaussians, size)

    def frames(gaussians):
        for _ in range(_FRAMES):
            picture = draw(gaussians)
        jax.block_until_ready(picture)

    points: list[dict[str, Any]] = []
    fits: list[dict[str, Any]] = []
    found = {**describe_machine(), "points": points, "fits": fits}
    place = Path(config.workdir) / "ours.json"
    for count in config.counts():
        with np.load(Path(config.workdir) / f"released-{count}.npz") as file:
            # Its pixel (i, j) has its centre at (j, i), ours at (j + 0.5, i + 0.5).
            means = (file["xyz"] + 1) / 2 * [width, height] + 0.5
            fields = means, file["cholesky"], file["colors"]
            their_picture = file["picture"]
        gaussians = gi.Cholesky(*(jnp.asarray(x, jnp.float32) for x in fields))
        with peak_memory() as peak:
            speed = time_runs(
                functools.partial(frames, gaussians), config.repeats, _FRAMES
            )
            state = fit_step.init(gaussians, jax.random.key(0))
            step = measure(fit_step, (state, jnp.asarray(image)), config.repeats, 100)
        picture = np.asarray(draw(gaussians))
        difference = np.abs(np.clip(picture, 0, 1) - their_picture)
        points.append(
            {
                "num_gaussians": count,
                "frames_per_second": 1e3 / speed["milliseconds"],
                "steps_per_second": 1e3 / step["milliseconds"],
                "memory_bytes": peak.bytes,
                "psnr": psnr_of_8_bits(picture, image),
                "largest_difference": float(difference.max()),
                "pixels_that_differ": float(np.mean(difference.max(2) > 1 / 255)),
            }
        )
        write_json(place, found)
        print(json.dumps(points[-1]), flush=True)

    if config.full_steps:
        released = json.loads((Path(config.workdir) / "released.json").read_bytes())
        goal = released["curve"][-1]["psnr"]
        for steps in _BUDGETS:
            gi.fit(image, config.full_gaussians, steps, progress=False)  # Compiles.
            fitted = gi.fit(image, config.full_gaussians, steps, progress=False)
            psnr, seconds = fitted.psnr, fitted.seconds
            fits.append({"steps": steps, "seconds": seconds, "psnr": psnr})
            write_json(place, found)
            if psnr >= goal:
                break
    return found


def summary(released: dict[str, Any], ours: dict[str, Any]) -> str:
    """Returns both sides in Markdown."""
    rows = []
    for theirs, own in zip(released["points"], ours["points"]):
        row = [fixed(own["num_gaussians"], 0)]
        for key in ("frames_per_second", "steps_per_second"):
            row += [fixed(theirs[key], 0), fixed(own[key], 0)]
            row += [fixed(own[key] / theirs[key], 2)]
        row += [mebibytes(side["memory_bytes"]) for side in (theirs, own)]
        row += [fixed(theirs["psnr"], 2), fixed(own["psnr"], 2)]
        row += [fixed(100 * own["pixels_that_differ"], 1)]
        rows.append(row)
    columns = ["Gaussians", "frames/s, released", "ours", "ratio"]
    columns += ["steps/s, released", "ours", "ratio", "MiB, released", "ours"]
    columns += ["PSNR, released", "ours", "pixels that differ, %"]
    text = table(columns, rows)
    if released["curve"]:
        last = released["curve"][-1]
        text += (
            f"\nReleased, {last['step']:,} steps: {last['psnr']:.2f} dB in "
            f"{last['seconds']:.1f} s.\n"
        )
        for fit in ours["fits"]:
            text += (
                f"Ours, {fit['steps']:,} steps: {fit['psnr']:.2f} dB in "
                f"{fit['seconds']:.3f} s.\n"
            )
    return f"{text}\n{ours['device']}, driver {ours['driver']}, {ours['commit']}.\n"


def main(config: Config) -> None:
    """Measures what the flags say.

    Raises:
      RuntimeError: where one of the sides failed.
    """
    workdir = Path(config.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if config.side == "released":
        measure_released(config)
        return
    if config.side == "both":
        for side in ("released", "ours"):
            values = dataclasses.asdict(config) | {"side": side}
            flags = [f"--{name}={value}" for name, value in values.items()]
            command = [sys.executable, "-m", "experiments.released", *flags]
            if subprocess.run(command).returncode:
                raise RuntimeError(f"the side '{side}' failed; see above")
        return
    ours = measure_ours(config)
    released = json.loads((workdir / "released.json").read_bytes())
    text = summary(released, ours)
    atomic_write(workdir / "summary.md", text.encode())
    print(text)


if __name__ == "__main__":
    run_script(Config, main)
