"""On a GPU machine torch and numpy are enough to import the engine."""

import subprocess
import sys

_SCRIPT = """
import importlib, pkgutil, sys

HIDDEN = {
    "numba", "scipy", "polars", "pydantic", "typer", "rich", "tifffile", "gemmi", "matplotlib",
    "PIL", "jinja2", "distributed", "imagecodecs", "safetensors", "psutil",
}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"{name} is hidden")

sys.meta_path.insert(0, Hide())
for package in ("verglas.kernels", "verglas.algorithms.em"):
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith(("_numba", "_triton")):
            importlib.import_module(f"{package}.{module.name}")
"""


def test_engine_and_kernels_import_with_torch_and_numpy_alone():
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
