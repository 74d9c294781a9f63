"""An executor that runs what it is given at once, for one thread."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

__all__ = ["Serial"]


class Serial(Executor):
    """Run in the thread that submits; an error comes with the result."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function and return its result, already there."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
