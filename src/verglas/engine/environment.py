"""What a job ran on: versions, machine, devices; written into its record."""

import os
import platform
import shutil
import socket
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from verglas.engine.slots import available_cores, visible_gpus

__all__ = ["describe_environment", "free_space_warning"]

_PACKAGES = ("verglas", "numpy", "torch", "polars", "numba", "scipy", "distributed")
LOW_SPACE_GB = 10.0
LOW_SPACE_FRACTION = 0.05


@cache
def describe_environment() -> dict[str, str]:
    """Collect versions and machine, without loading the packages."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    n_gpus = len(visible_gpus())
    return found | {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "host": socket.gethostname(),
        "user": os.environ.get("USER", ""),
        "device": f"{available_cores()} cores, {n_gpus} GPUs",
    }


def free_space_warning(folder: Path) -> str:
    """Warn when less than 10 GB or 5 % of the disk is left; empty otherwise."""
    usage = shutil.disk_usage(folder)
    free_gb = usage.free / 2**30
    if free_gb >= LOW_SPACE_GB and usage.free >= LOW_SPACE_FRACTION * usage.total:
        return ""
    return f"only {free_gb:.1f} GB of disk are free ({100 * usage.free / usage.total:.0f} %)"
