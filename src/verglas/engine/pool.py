"""Choose an executor, and keep it for the other jobs of this process."""

import threading
from dataclasses import dataclass
from typing import Literal

from verglas.core.errors import ParamsError
from verglas.engine.cluster import LocalCluster, SiteCluster, Tls
from verglas.engine.executor import Executor, InProcessExecutor

__all__ = ["Placement", "close_executors", "get_executor"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where chunks run.

    Attributes:
        where: `local` for worker processes on this machine, `in_process` for one chunk after
            the other in the thread that waits.
        workers: worker processes; by default as many as there are cores.
        cores: that all workers may use together; by default all of the machine.
        scheduler: address of a Dask scheduler, which then takes the chunks.
        tls: certificates for a scheduler beyond this machine.
    """

    where: Literal["local", "in_process"] = "local"
    workers: int | None = None
    cores: int | None = None
    scheduler: str = ""
    tls: Tls | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("cores", self.cores)):
            if value is not None and value < 1:
                raise ParamsError(f"{name}: got {value!r}, expected >= 1")


_executors: dict[Placement, Executor] = {}
_mutex = threading.Lock()


def get_executor(placement: Placement) -> Executor:
    """Return the executor for a placement; those of this machine are shared by all jobs."""
    if placement.where == "in_process":
        return InProcessExecutor()
    with _mutex:
        if placement not in _executors:
            _executors[placement] = _make(placement)
        return _executors[placement]


def close_executors() -> None:
    """Stop all worker processes that this process started."""
    with _mutex:
        for executor in _executors.values():
            executor.close()
        _executors.clear()


def _make(placement: Placement) -> Executor:
    if placement.scheduler:
        return SiteCluster(placement.scheduler, tls=placement.tls)
    return LocalCluster(n_workers=placement.workers, n_cores=placement.cores)
