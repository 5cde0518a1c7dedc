"""Promises about the package as a whole: what it imports, and which way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import only from folders of its own rank or of lower rank.
RANK = {
    "gaussians": 0,
    "filters": 0,
    "color_profiles": 0,
    "images": 0,
    "metrics": 0,
    "rendering": 1,
}
RANK |= {"fitting": 2, "coding": 2, "cli": 5, "__init__": 5}
RANK |= {"arguments": 0, "interruption": 0, "progress": 0}
RANK |= {"transparency": 1, "visibility": 1, "api": 5, "command": 5}
RANK |= {"symbol_search": 3, "paper_encoder": 3, "encoder": 4, "program_cache": 4}

FILES = sorted((ROOT / "gi_jax").rglob("*.py"))


def part(module: str) -> str:
    """Returns the folder or file below gi_jax that a module belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imports(path: Path) -> set[str]:
    """Returns what a file imports when it is imported, or when a function runs."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    nodes = [*ast.walk(tree)]
    found = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    return found | {n.module for n in nodes if isinstance(n, ast.ImportFrom)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_imports_go_down(path):
    own = part(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path):
        if not module.startswith("gi_jax"):
            assert module.split(".")[0] not in ("experiments", "tests")
            continue
        other = part(module)
        if {own, other} == {"fitting", "coding"}:
            pytest.fail(f"{own} imports {other}")
        assert RANK[other] <= RANK[own]


def test_kernels_import_triton_alone_and_are_imported_in_one_place():
    kernels = sorted((ROOT / "triton_kernels").rglob("*.py"))
    for path in kernels:
        names = {module.split(".")[0] for module in imports(path)}
        assert names <= {"triton", "triton_kernels"}, path
        assert len(path.read_text().splitlines()) <= 400
    importers = {"triton_rasterizer": "triton_kernels", "triton_call": "jax_triton"}
    for importer, package in importers.items():
        assert [path.stem for path in FILES if package in imports(path)] == [importer]


def test_import_brings_nothing_optional():
    program = (
        "import sys, gi_jax.api; print(*{name.split('.')[0] for name in sys.modules})"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    optional = {"triton", "jax_triton", "triton_kernels", "torch", "distributed"}
    optional |= {"matplotlib", "skimage", "experiments", "dask"}
    assert not optional & set(output)
    assert "gi_jax" in output


def test_names_are_public_where_the_library_is_loaded_late():
    import gi_jax as gi
    from gi_jax import api

    assert sorted(gi.__all__) == sorted(n for n in vars(api) if n[:2] != "__")
    assert {*gi.__all__} <= {*dir(gi)}
    with pytest.raises(AttributeError, match=r"'gi_jax' has no attribute 'nothing'"):
        gi.nothing  # noqa: B018
    program = "import gi_jax; gi_jax.fitting.optimizers.Tangent; gi_jax.metrics.psnr"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_library_may_be_loaded_while_jax_traces():
    program = (
        "import sys, jax, jax.numpy as jnp\n"
        "import gi_jax as gi\n"
        "assert 'gi_jax.api' not in sys.modules\n"
        "x = jnp.linspace(0, 1, 48).reshape(4, 4, 3)\n"
        "with jax.checking_leaks(): first = jax.jit(lambda x: gi.psnr(x, x / 2))(x)\n"
        "assert first == jax.jit(lambda x: gi.psnr(x, x / 2))(x)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_public_names_are_documented():
    import gi_jax as gi

    for name in gi.__all__:
        assert getattr(gi, name).__doc__, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 400
