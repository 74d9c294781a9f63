"""Make and check the ids of jobs, data sets, items and protocols.

Jobs are `j12`, data sets `d41`; both count up within a project and are what a person types.
Items (rows) have an integer that stays with the thing through the pipeline.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from verglas.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "check_protocol_id",
    "child_item_ids",
    "content_digest",
    "dataset_id",
    "job_folder_name",
    "job_id",
    "parse_id",
]

_PROTOCOL_ID = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
_NUMBERED_ID = re.compile(r"([jd])?0*([0-9]+)(-.*)?")
_CHILDREN_PER_ITEM = 2**20
DIGEST_BYTES = 16


def job_id(number: int) -> str:
    """Write the id of a job: 12 gives `j12`."""
    return f"j{number}"


def dataset_id(number: int) -> str:
    """Write the id of a data set: 41 gives `d41`."""
    return f"d{number}"


def parse_id(text: str, *, prefix: str) -> int:
    """Read the number of a job or data set from what a person types.

    Args:
        text: `j12`, `12` or a job's folder name, `0012-estimate_ctf`.
        prefix: `j` or `d`.
    """
    match = _NUMBERED_ID.fullmatch(text.strip().lower())
    if match is None or match[1] not in (None, prefix):
        word = {"j": "a job", "d": "a data set"}[prefix]
        raise UserError(f"not the id of {word}: got {text!r}, expected {prefix!r} and a number")
    return int(match[2])


def job_folder_name(number: int, protocol_id: str) -> str:
    """Name the folder of a job: 12 and `micrographs.estimate_ctf` give `0012-estimate_ctf`."""
    return f"{number:04d}-{protocol_id.rpartition('.')[2]}"


def check_protocol_id(protocol_id: str) -> None:
    """Raise unless a protocol id has the form `<object>.<verb>_<what>`."""
    if not _PROTOCOL_ID.fullmatch(protocol_id):
        raise ValueError(f"protocol id must be 'object.verb_what': got {protocol_id!r}")


def child_item_ids(source_id: int, n_children: int) -> "npt.NDArray[np.int64]":
    """Number the children of an item without knowing how many its neighbours have.

    Chunks of one job run apart, so each needs ids that cannot meet those of another: the
    parent's id times 2^20 plus a counter. Equal parents give equal ids, so a chunk that is
    run again names the same things.

    Args:
        source_id: `item_id` of the parent, 0 to 2^43.
        n_children: at most 2^20.
    """
    import numpy as np  # here, because commands that only look up jobs need no arrays

    if not 0 <= source_id < 2**43:
        raise ValueError(f"source_id must be >= 0 and < 2^43: got {source_id!r}")
    if n_children > _CHILDREN_PER_ITEM:
        raise ValueError(f"n_children must be <= {_CHILDREN_PER_ITEM}: got {n_children!r}")
    return source_id * _CHILDREN_PER_ITEM + np.arange(n_children, dtype=np.int64)


def content_digest(parts: Iterable[bytes | memoryview]) -> str:
    """Hash byte strings in order into 32 hexadecimal digits (BLAKE2b, 128 bit).

    Each part is preceded by its length, so that moving a border changes the digest.
    """
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        view = memoryview(part)
        digest.update(view.nbytes.to_bytes(8, "little"))
        digest.update(view)
    return digest.hexdigest()
