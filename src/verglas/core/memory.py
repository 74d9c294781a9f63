"""Tell how much memory there is before work begins that may not fit."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from verglas.core.errors import UserError
from verglas.core.units import BYTES_PER_GB

__all__ = ["Memory", "check_memory", "memory_of_machine"]

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Memory that this process may use.

    Attributes:
        total_gb: in all, or as much as the container allows.
        free_gb: of it, not in use.
    """

    total_gb: float
    free_gb: float


def memory_of_machine(cgroup: Path = _CGROUP) -> Memory:
    """Read the memory of the machine, or of the container that this process is in.

    Args:
        cgroup: folder of the limits, as cgroup version 2 has it.
    """
    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max": no limit
        pass
    else:
        total, free = min(total, limit), min(free, limit - used)
    return Memory(total / BYTES_PER_GB, free / BYTES_PER_GB)


def check_memory(needed_gb: float, what: str, hint: str, memory: Memory) -> str | None:
    """Refuse what can never fit; say so where it will be tight.

    Args:
        needed_gb: at the peak, by a model.
        what: that takes it, as a subject.
        hint: what to do.
        memory: of the machine.

    Returns:
        A warning, or none.

    Raises:
        UserError: more is needed than there is in all.
    """
    if needed_gb > memory.total_gb:
        raise UserError(
            f"{what} takes about {needed_gb:.1f} GB of memory, and this machine has "
            f"{memory.total_gb:.1f} GB",
            hint,
        )
    if needed_gb > memory.free_gb:
        return (
            f"{what} takes about {needed_gb:.1f} GB of memory, and {memory.free_gb:.1f} GB are "
            f"free: close other programs, or {hint}"
        )
    return None
