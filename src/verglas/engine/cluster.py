"""Chunks on Dask: a cluster on this machine, or any scheduler that a site runs.

This is the only file that knows Dask. On this machine the scheduler lives in the driver's
process and listens on the loopback address only; the workers are processes of `slots.py` and
not of Dask's own nanny, so that a user's script needs no main guard and a worker that dies is
seen at once. Dask carries the calls; which worker gets which chunk is decided here, because a
chunk may ask for several cores or a GPU, and two cores must never be asked for three.
"""

import asyncio
import atexit
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from verglas.core.errors import EngineError, UserError
from verglas.engine import events as ev
from verglas.engine.executor import Report, Unit, outcome_event
from verglas.engine.placement import Tls
from verglas.engine.slots import Slot, available_cores, end_with_driver, usable_gpus
from verglas.engine.worker import read_outcome, run_and_tell

__all__ = ["LocalCluster", "SiteCluster", "serve_worker"]

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")

START_TIMEOUT_S = 60.0
_LOOPBACK = "127.0.0.1"
_QUIET = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.comm.timeouts.connect": "30s",
}


@dataclass(slots=True, eq=False)
class _Flight:
    """A unit that was handed in."""

    unit: Unit
    report: Report
    cost: int = 1
    future: Any = None
    was_seen: bool = False

    def look_for_start(self) -> None:
        """Report once that the chunk began: its live folder is there."""
        if not self.was_seen and self.unit.live.exists():
            self.was_seen = True
            self.report(ev.ChunkStarted(self.unit.step, self.unit.key))

    def report_end(self) -> None:
        """Report how Dask's call ended."""
        future, unit = self.future, self.unit
        self.look_for_start()
        if future.status == "finished":
            # nothing is fetched through Dask, which would cost a round trip: the files tell
            outcome = read_outcome(unit)
            if outcome is not None:
                self.report(outcome_event(outcome))
                return
        reason = f"the scheduler says {future.status!r}"
        if future.status == "error":
            problem = future.exception()
            if isinstance(problem, UserError):  # as when a full disk refuses even the note
                self.report(ev.ChunkFailed(unit.step, unit.key, str(problem), True))
                return
            reason = f"{type(problem).__name__}: {problem}"
        self.report(ev.ChunkLost(unit.step, unit.key, reason, self.was_seen))

    def is_of(self, folder: Path, chunks: Collection[tuple[str, str]]) -> bool:
        """Say whether the unit is one of some chunks of a job."""
        return self.unit.folder == folder and (self.unit.step, self.unit.key) in chunks


class LocalCluster:
    """Worker processes on this machine, one chunk each at a time.

    `n_workers` processes share `n_cores` cores and the `gpus`, of which each belongs to one
    worker. The processes start with the first unit and stay until `close`.
    """

    def __init__(
        self,
        *,
        n_workers: int | None = None,
        n_cores: int | None = None,
        gpus: Collection[int] | None = None,
    ) -> None:
        self.n_cores = n_cores or available_cores()
        self.n_workers = n_workers or self.n_cores
        self.threads = max(1, self.n_cores // self.n_workers)
        numbers = list(usable_gpus() if gpus is None else gpus)
        self.slots = [
            Slot(f"w{i}", numbers[i] if i < len(numbers) else None) for i in range(self.n_workers)
        ]
        self._waiting: deque[_Flight] = deque()
        self._ended: queue.SimpleQueue[tuple[Slot, _Flight]] = queue.SimpleQueue()
        self._mutex = threading.RLock()
        self._scheduler: Any = None
        self._client: Any = None

    def capacity(self, *, cpus: int, gpus: int) -> int:
        """Say how many such chunks can run at once."""
        by_cores = self.n_cores // max(cpus, self.threads)
        n_gpus = sum(slot.gpu is not None for slot in self.slots)
        by_gpus = n_gpus if gpus and n_gpus else self.n_workers
        return max(1, min(by_cores, by_gpus, self.n_workers))

    def submit(self, unit: Unit, report: Report) -> None:
        """Take a unit; it is sent when a worker and enough cores are free."""
        cost = min(self.n_cores, max(unit.cpus, self.threads))
        with self._mutex:
            self._start()
            self._waiting.append(_Flight(unit, report, cost))
            report(ev.ChunkSubmitted(unit.step, unit.key))
            self._dispatch()

    def withdraw(self, folder: Path, chunks: Collection[tuple[str, str]]) -> None:
        """Forget chunks of a job; a worker that runs one is killed, and another started."""
        with self._mutex:
            self._waiting = deque(f for f in self._waiting if not f.is_of(folder, chunks))
            for slot in self.slots:
                if slot.busy is not None and slot.busy.is_of(folder, chunks):
                    slot.busy.future.release()  # now, and not when the program ends
                    slot.kill()
            if self._waiting:
                self._start()

    def turn(self, timeout_s: float) -> None:
        """Take in what ended, notice dead workers, and send what waits."""
        item = _wait(self._ended, timeout_s)
        with self._mutex:
            ended = []
            while item is not None:
                slot, flight = item
                if slot.busy is flight:  # else its worker died or was killed: reported already
                    slot.busy = None
                    ended.append(flight)
                item = _wait(self._ended, 0)
            self._dispatch()  # before results are fetched, so that workers need not wait for it
            for flight in ended:
                flight.report_end()
            for slot in self.slots:
                if slot.has_died:
                    self._bury(slot)
                elif slot.busy is not None:
                    slot.busy.look_for_start()
            self._dispatch()

    def close(self) -> None:
        """Stop workers and scheduler."""
        atexit.unregister(self.close)
        with self._mutex:
            for slot in self.slots:
                slot.kill()
            for thing in (self._client, self._scheduler):
                if thing is not None:
                    thing.close(timeout=5)
            self._client = self._scheduler = None
            self._waiting.clear()

    def _start(self) -> None:
        """Start what is not running; workers load their modules while the scheduler starts."""
        fresh = [slot for slot in self.slots if slot.process is None]
        for slot in fresh:
            slot.start(self.threads)
        is_first = self._client is None
        if is_first:
            atexit.register(self.close)
            self._scheduler, self._client = _start_scheduler()
        for slot in fresh:
            slot.introduce(self._scheduler.scheduler_address)
        if is_first:
            self._wait_for_one_worker()

    def _wait_for_one_worker(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._find_addresses():
            if all(slot.has_died for slot in self.slots):
                raise EngineError("no worker process could be started", "see verglas doctor")
            if time.monotonic() > deadline_s:
                raise EngineError(f"no worker process answered within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.01)

    def _find_addresses(self) -> bool:
        """Note which workers have reported to the scheduler."""
        workers = list(self._scheduler.scheduler.workers.items())
        addresses = {str(worker.name): address for address, worker in workers}
        for slot in self.slots:
            if not slot.address:
                slot.address = addresses.get(slot.worker_name, "")
        return any(slot.address for slot in self.slots)

    def _dispatch(self) -> None:
        """Send waiting units, in order, while there are a free worker and free cores."""
        if not self._waiting:
            return
        self._find_addresses()
        while self._waiting:
            flight = self._waiting[0]
            used = sum(slot.busy.cost for slot in self.slots if slot.busy is not None)
            slot = self._free_slot(flight.unit)
            if slot is None or (used and used + flight.cost > self.n_cores):
                return
            self._waiting.popleft()
            self._send(slot, flight)

    def _free_slot(self, unit: Unit) -> Slot | None:
        free = [slot for slot in self.slots if slot.address and slot.busy is None]
        if unit.gpus and any(slot.gpu is not None for slot in self.slots):
            free = [slot for slot in free if slot.gpu is not None]
        else:
            free.sort(key=lambda slot: slot.gpu is not None)
        return free[0] if free else None

    def _send(self, slot: Slot, flight: _Flight) -> None:
        unit = flight.unit
        device = f"cuda:{slot.gpu}" if unit.gpus and slot.gpu is not None else "cpu"
        flight.unit = replace(unit, device=device, threads=max(unit.cpus, self.threads))
        slot.busy = flight
        flight.future = _call(self._client, flight.unit, workers=[slot.address])
        flight.future.add_done_callback(lambda _: self._ended.put((slot, flight)))

    def _bury(self, slot: Slot) -> None:
        """Report the chunk of a worker that died, and start another worker if one is needed."""
        flight: _Flight | None = slot.busy
        reason = slot.clear()
        log.warning("worker %s died: %s", slot.name, reason)
        if flight is not None:
            flight.look_for_start()
            flight.future.release()
            flight.report(ev.ChunkLost(flight.unit.step, flight.unit.key, reason, flight.was_seen))
        if self._waiting:
            self._start()


class SiteCluster:
    """A Dask scheduler that somebody else runs; it decides which worker gets what.

    `address` is as `tcp://127.0.0.1:8786` or `tls://host:8786`; beyond this machine only TLS is
    accepted, since a scheduler runs whatever it is sent.
    """

    n_cores = 1  # of a worker, as far as is known

    def __init__(self, address: str, *, tls: Tls | None = None) -> None:
        host = address.partition("://")[2].rpartition(":")[0].strip("[]")
        if host not in (_LOOPBACK, "localhost", "::1") and tls is None:
            raise UserError(
                f"scheduler {address!r} is on another machine: expected TLS certificates",
                "give the files of the authority, the certificate and the key",
            )
        self.address = address
        self._tls = tls
        self._client: Any = None
        self._flights: set[_Flight] = set()
        self._ended: queue.SimpleQueue[_Flight] = queue.SimpleQueue()
        self._mutex = threading.RLock()

    def capacity(self, *, cpus: int, gpus: int) -> int:
        """Count the threads of the scheduler's workers, and let some chunks wait there."""
        workers = self._connect().scheduler_info(n_workers=-1)["workers"].values()
        n_threads = sum(int(worker["nthreads"]) for worker in workers)
        return max(1, 2 * (n_threads // cpus))

    def submit(self, unit: Unit, report: Report) -> None:
        """Send a unit."""
        flight = _Flight(replace(unit, threads=unit.cpus), report)
        resources = {"GPU": unit.gpus} if unit.gpus else None
        with self._mutex:
            flight.future = _call(self._connect(), flight.unit, resources=resources)
            self._flights.add(flight)
        report(ev.ChunkSubmitted(unit.step, unit.key))
        flight.future.add_done_callback(lambda _: self._ended.put(flight))

    def withdraw(self, folder: Path, chunks: Collection[tuple[str, str]]) -> None:
        """Cancel chunks of a job; those that run come to their end unheard."""
        with self._mutex:
            for flight in [f for f in self._flights if f.is_of(folder, chunks)]:
                self._flights.remove(flight)
                flight.future.cancel()

    def turn(self, timeout_s: float) -> None:
        """Take in what started and ended."""
        flight = _wait(self._ended, timeout_s)
        with self._mutex:
            while flight is not None:
                if flight in self._flights:
                    self._flights.remove(flight)
                    flight.report_end()
                flight = _wait(self._ended, 0)
            for other in self._flights:
                other.look_for_start()

    def close(self) -> None:
        """Leave the scheduler, which goes on."""
        if self._client is not None:
            self._client.close(timeout=5)
            self._client = None

    def _connect(self) -> Any:
        if self._client is None:
            self._client = _connect(self.address, self._tls)
        return self._client


def serve_worker() -> None:
    """Be a worker process: the name is the argument, the scheduler's address is on stdin."""
    import dask.config
    import distributed

    address = sys.stdin.buffer.readline().decode().strip()
    if not address:
        return
    threading.Thread(target=end_with_driver, name="driver-watch", daemon=True).start()
    dask.config.set(_QUIET)
    logging.getLogger("distributed").setLevel(logging.ERROR)

    async def serve() -> None:
        worker = distributed.Worker(
            address,
            name=f"{sys.argv[1]}-{os.getpid()}",
            nthreads=1,
            memory_limit=0,
            dashboard=False,
            host=_LOOPBACK,
            death_timeout=30,
        )
        async with worker:
            await worker.finished()  # type: ignore[no-untyped-call]

    asyncio.run(serve())


def _start_scheduler() -> tuple[Any, Any]:
    """Start a scheduler in a thread of this process, and a client for it."""
    import dask.config
    import distributed

    module: Any = distributed
    with dask.config.set(_QUIET):
        scheduler = module.LocalCluster(
            n_workers=0,
            processes=False,
            protocol="tcp://",
            host=_LOOPBACK,
            silence_logs=logging.ERROR,
            # Dask opens a port for pages even without any: let it be a free one, for us alone
            scheduler_kwargs={"dashboard": False, "dashboard_address": f"{_LOOPBACK}:0"},
        )
        return scheduler, _without_delay(module.Client(scheduler, set_as_default=False))


def _connect(address: str, tls: Tls | None) -> Any:
    import distributed

    module: Any = distributed
    security = None
    if tls is not None:
        security = module.Security(
            tls_ca_file=str(tls.ca_file),
            tls_client_cert=str(tls.certificate),
            tls_client_key=str(tls.key),
            require_encryption=True,
        )
    try:
        client = module.Client(address, security=security, set_as_default=False, timeout=30)
    except OSError as error:
        raise EngineError(
            f"scheduler {address!r} does not answer: {error}",
            "check the address, and that its workers run",
        ) from error
    return _without_delay(client)


def _without_delay(client: Any) -> Any:
    """Have calls sent at once: Dask gathers them for 10 ms, as long as a short chunk takes."""
    client.scheduler_comm.interval = 0.0
    return client


def _wait(ended: "queue.SimpleQueue[_Item]", timeout_s: float) -> _Item | None:
    try:
        return ended.get(timeout=timeout_s) if timeout_s > 0 else ended.get_nowait()
    except queue.Empty:
        return None


def _call(client: Any, unit: Unit, **options: Any) -> Any:
    """Have Dask call a unit once; trying again is the ledger's business."""
    name = f"{unit.folder.name}/{unit.step}/{unit.key}/{unit.attempt}/{time.monotonic_ns()}"
    return client.submit(run_and_tell, unit, key=name, pure=False, retries=0, **options)
