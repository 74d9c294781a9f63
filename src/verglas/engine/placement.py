"""Say where chunks run; light to import, since every command may carry such a choice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from verglas.core.errors import ParamsError

__all__ = ["Placement", "Tls"]


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates for a scheduler beyond this machine."""

    ca_file: Path
    certificate: Path
    key: Path


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
        """Refuse counts below one."""
        for name, value in (("workers", self.workers), ("cores", self.cores)):
            if value is not None and value < 1:
                raise ParamsError(f"{name}: got {value!r}, expected >= 1")
