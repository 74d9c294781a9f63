"""Make the executor for a placement, and keep it for the other jobs of this process."""

import threading

from verglas.engine.executor import Executor, InProcessExecutor
from verglas.engine.placement import Placement

__all__ = ["close_executors", "get_executor"]

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
    from verglas.engine.cluster import LocalCluster, SiteCluster  # asyncio, which is not small

    if placement.scheduler:
        return SiteCluster(placement.scheduler, tls=placement.tls)
    return LocalCluster(n_workers=placement.workers, n_cores=placement.cores)
