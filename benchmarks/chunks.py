"""What a chunk costs beyond its function: `python -m benchmarks.chunks [N]` in the repository.

Runs N chunks that do nothing, in this process and on two workers. Wall time counts on a quiet
machine only; processor time, driver and workers together, on any.
"""

import sys
import tempfile
import time
from pathlib import Path

import psutil
from tests.engine.number_protocols import number_registry

from verglas.api.project import Project
from verglas.engine.placement import Placement

PLACES = {"in process": Placement("in_process"), "2 workers": Placement(workers=2, cores=2)}


def processor_s() -> float:
    """Processor time of this process and its workers so far."""
    here = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in (here, *here.children()))


def main(n_chunks: int) -> None:
    """Measure each place after its workers have loaded what they need."""
    for name, placement in PLACES.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            Project.create(
                Path(folder) / "p", registry=number_registry(), placement=placement
            ) as p,
        ):
            p.run("numbers.raise_power", numbers=p.run("numbers.make_range", count=8), chunk=1)
            numbers = p.run("numbers.make_range", count=n_chunks)
            wall, processor = time.perf_counter(), processor_s()
            p.run("numbers.raise_power", numbers=numbers, chunk=1)
            wall, processor = time.perf_counter() - wall, processor_s() - processor
        print(
            f"{name}: {1e3 * wall / n_chunks:.1f} ms wall, "
            f"{1e3 * processor / n_chunks:.1f} ms processor time per chunk"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
