"""Name every error that leaves the program on purpose.

A `UserError` is something the person can put right: it is shown without traceback, and
its hint says what to do. An `EngineError` is a failure of the work itself. Kernels and
algorithms raise `ValueError` and `TypeError`; the layer that reads the user's input turns
them into one of these. All of them survive pickling, since workers send them home.
"""

__all__ = [
    "DiskFull",
    "EngineError",
    "FormatError",
    "ParamsError",
    "PortError",
    "ProjectLocked",
    "TaskFailed",
    "TaskLost",
    "ToolError",
    "UserError",
    "VerglasError",
]


class VerglasError(Exception):
    """Say what happened, and optionally what to do about it.

    Attributes:
        message: what, got, expected; lower case, no full stop.
        hint: what the person should do, or None.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"


class UserError(VerglasError):
    """Something that the person can put right; shown without traceback."""


class ParamsError(UserError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class PortError(UserError):
    """A data set does not fit the port it was given to."""


class FormatError(UserError):
    """A file or table is missing, damaged or not what it claims to be."""


class ToolError(UserError):
    """An outside program is missing, too old or failed."""


class ProjectLocked(UserError):
    """Another process is writing to the project."""


class DiskFull(UserError):
    """The disk, the quota or the largest size of a file leaves no room for a write."""


class EngineError(VerglasError):
    """The work could not be carried out."""


class TaskFailed(EngineError):
    """A chunk of work raised an error on every attempt."""


class TaskLost(EngineError):
    """The worker that carried a chunk vanished."""
