"""Find the data sets that a person names: `d41`, `j12.particles`, `j12`, a job, a data set."""

import re
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from verglas.core.errors import PortError, UserError
from verglas.core.ids import dataset_id, job_id, parse_id
from verglas.project.record import JobRecord
from verglas.project.store import DataSetInfo, Store

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.model import DataSet, Kind

__all__ = ["DataSetRef", "JobRef", "current_number", "find_dataset", "find_job", "open_numbered"]

DataSetRef: TypeAlias = "str | int | DataSet | Job"

JobRef: TypeAlias = "str | int | Job"

_OF_JOB = re.compile(r"(?P<job>j?\d+(?:-[^.]*)?)(?:\.(?P<port>\w+))?(?:\[(?P<index>\d+)\])?")


def find_job(store: Store, ref: "JobRef") -> JobRecord:
    """Look up a job by `j12`, `12`, its folder's name or a handle."""
    if not isinstance(ref, str | int):
        return store.job(ref.number)
    return store.job(ref if isinstance(ref, int) else parse_id(ref, prefix="j"))


def find_dataset(store: Store, ref: DataSetRef, kind: "Kind | None" = None, port: str = "") -> int:
    """Return the number of the data set that a reference means.

    Args:
        store: of the project.
        ref: `d41`, `j12.particles`, `j12.maps[2]` (counted from 1), `j12` where only one output
            fits, or a data set of the project.
        kind: wanted, to choose among the outputs of `j12`.
        port: that is to be filled; of several outputs of the kind the one of its name is taken.
    """
    from verglas.model import DataSet

    if isinstance(ref, DataSet):
        return _number_of(ref)
    if not isinstance(ref, str | int):
        ref = ref.id
    if isinstance(ref, int) or re.fullmatch(r"d\d+", ref.strip().lower()):
        return store.dataset(parse_id(str(ref), prefix="d")).number
    match = _OF_JOB.fullmatch(ref.strip())
    if match is None:
        raise PortError(f"not a data set: got {ref!r}", "name it as d41 or j12.particles")
    record = find_job(store, match["job"])
    outputs = [o for o in record.outputs if match["port"] in (None, o.port)]
    if match["port"] is None and kind is not None and len(outputs) > 1:
        outputs = [output for output in outputs if kind.takes(output.kind)]
        outputs = [output for output in outputs if output.port == port] or outputs
    if match["index"] is not None:
        outputs = outputs[int(match["index"]) - 1 : int(match["index"])]
    if len(outputs) != 1:
        names = _output_names(record)
        count = "no" if not outputs else "more than one"
        raise PortError(
            f"{job_id(record.number)} ({record.protocol}, {record.status}) has {count} output "
            f"that {ref!r} could mean",
            f"its outputs are {', '.join(names)}" if names else "run it first",
        )
    return outputs[0].dataset


def open_numbered(store: Store, number: int) -> "DataSet":
    """Open a data set of the project."""
    from verglas.model import open_dataset

    info = store.dataset(number)
    folder = store.layout.root / info.folder
    if not folder.exists():
        raise UserError(
            f"data set {info.id!r} of {job_id(info.job)} was deleted",
            f"run {job_id(info.job)} again",
        )
    return open_dataset(folder, store.layout.root, info.id)


def current_number(store: Store, number: int) -> int:
    """Return what replaced a data set when its job was run again, or the number itself."""
    info = store.dataset(number)
    if info.is_current:
        return number
    record = store.job(info.job)
    candidates = [output.dataset for output in record.outputs if output.port == info.port]
    if not candidates:
        raise PortError(
            f"{dataset_id(number)} was replaced, and {record.id} has no output {info.port!r} now",
            f"run {record.id} to its end first",
        )
    position = _position(record, info)
    return candidates[min(position, len(candidates) - 1)]


def _position(record: JobRecord, info: DataSetInfo) -> int:
    """Return the place of a replaced data set among those of its port."""
    for revision in record.former:
        numbers = [o.dataset for o in revision.outputs if o.port == info.port]
        if info.number in numbers:
            return numbers.index(info.number)
    return 0


def _number_of(data: "DataSet") -> int:
    if not data.id:
        raise PortError(
            f"{data.name} is not in the project",
            "only data sets that a job made or imported can be inputs",
        )
    return parse_id(data.id, prefix="d")


def _output_names(record: JobRecord) -> list[str]:
    """Name every output; several of one port by their place."""
    counts = Counter(output.port for output in record.outputs)
    return [
        f"{record.id}.{port}" + (f"[{place}]" if count > 1 else "")
        for port, count in counts.items()
        for place in range(1, count + 1)
    ]
