"""Choose what is drawn of a job: the viewers that suit what it made."""

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from verglas.api.inputs import open_numbered
from verglas.core.errors import VerglasError
from verglas.project.record import JobRecord
from verglas.viewers.maps import MAX_BOX_PX, portrait_picture
from verglas.viewers.panels import Shown, best_viewers, draw_viewer
from verglas.viewers.picture import Missing, Picture
from verglas.viewers.scene import Scene, read_volume

if TYPE_CHECKING:
    from verglas.api.project import Project
    from verglas.model import DataSet

log = logging.getLogger(__name__)


def draw_job(project: "Project", record: JobRecord) -> list[Shown]:
    """Draw what a job made, kind by kind; a data set that cannot be opened is named."""
    shown: list[Shown] = []
    outputs, missing = _open(project, record)
    shown += missing
    by_kind: dict[str, dict[str, DataSet]] = {}
    for port, data in outputs.items():
        by_kind.setdefault(data.kind.id, {})[port] = data
    if any("mask_path" in data.columns for data in by_kind.get("volumes", {}).values()):
        by_kind.pop("masks", None)  # drawn as an outline on the map
    inputs = _open_inputs(project, record)
    for sets in by_kind.values():
        # where everything was put aside, that is what there is to see
        ordered = dict(sorted(sets.items(), key=lambda item: item[1].n_items == 0))
        used: set[str] = set()
        for port, data in ordered.items():
            viewers = best_viewers(project.registry.viewers.values(), data) if data.n_items else []
            # a second set that is shown in the same way is in the pictures of the first
            for viewer in (viewer for viewer in viewers if viewer.id not in used):
                used.add(viewer.id)
                others = {name: other for name, other in ordered.items() if name != port}
                name = _picture_name(record, port, viewer.id)
                scene = Scene(name, {port: data, **others}, inputs, record.parameters)
                shown += draw_viewer(viewer, scene)
    return shown


def _picture_name(record: JobRecord, port: str, viewer_id: str) -> str:
    return re.sub(r"[^\w-]+", "-", f"{record.id}-{port}-{viewer_id.rpartition('.')[2]}")


def draw_portrait(project: "Project", records: Sequence[JobRecord]) -> Picture | None:
    """Draw the map that the work has led to, if there is one.

    Args:
        project: open.
        records: jobs that are done, the last one first.
    """
    made = [
        (record, output)
        for record in sorted(records, key=lambda r: r.protocol != "volumes.postprocess")
        for output in record.outputs
        if output.kind == "volumes" and output.n_items and record.protocol != "volumes.fsc"
    ]
    for record, output in made[:1]:
        try:
            data = open_numbered(project.store, output.dataset)
            row = data.with_optics().head(1).collect().row(0, named=True)
            volume, factor = read_volume(data, row["image_path"], max_side_px=MAX_BOX_PX)
            mask = None
            if row.get("mask_path"):
                mask, _ = read_volume(data, row["mask_path"], max_side_px=MAX_BOX_PX)
            pixel = float(row["pixel_size_angst"]) * factor
            return portrait_picture(
                volume, f"{record.id}-portrait", pixel_size_angst=pixel, mask=mask
            )
        except (VerglasError, OSError, ValueError, IndexError, KeyError):
            log.debug("no portrait of %s", record.id, exc_info=True)
    return None


def _open(project: "Project", record: JobRecord) -> "tuple[dict[str, DataSet], list[Missing]]":
    """Open the outputs of a job by port; several of one port are told apart by number."""
    found: dict[str, DataSet] = {}
    missing = []
    for output in record.outputs:
        name, number = output.port, 1
        while name in found:
            number += 1
            name = f"{output.port}-{number}"
        try:
            found[name] = open_numbered(project.store, output.dataset)
        except (VerglasError, OSError) as error:
            missing.append(Missing(f"{output.port} ({output.id})", str(error)))
    return found, missing


def _open_inputs(project: "Project", record: JobRecord) -> "dict[str, list[DataSet]]":
    """Open what a job read; what is gone is left out, since it only adds to the pictures."""
    found: dict[str, list[DataSet]] = {}
    for link in record.inputs:
        try:
            found.setdefault(link.port, []).append(open_numbered(project.store, link.dataset))
        except (VerglasError, OSError):
            log.debug("input d%d of %s cannot be opened", link.dataset, record.id)
    return found
