"""Turn a function `run(ctx, params, inputs) -> outputs` into a protocol.

`@protocol` returns the function unchanged, so a test calls it directly, and records what
the registry needs: id, version, documentation and the classes of parameters and ports,
which are read from the function's annotations.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, get_type_hints

from verglas.core.ids import check_protocol_id
from verglas.core.registry import SPEC_ATTRIBUTE
from verglas.sdk.params import Params
from verglas.sdk.ports import Port, Ports, ports_of

__all__ = ["ProtocolSpec", "protocol", "spec_of"]

Run = TypeVar("Run", bound=Callable[..., Any])


@dataclass(frozen=True)
class ProtocolSpec:
    """What is known of a protocol without running it.

    Attributes:
        id: `object.verb_what`.
        version: raised when results change for equal inputs; part of every chunk key.
        label: name for people.
        doc: docstring of the module, the help page.
        params, inputs, outputs: classes of parameters and ports.
        module: where it is.
        run: the function.
        citations: references that a Methods paragraph names, as `Author Year, DOI`.
    """

    registry_category: ClassVar[str] = "protocol"

    id: str
    version: int
    label: str
    doc: str
    params: type[Params]
    inputs: type[Ports]
    outputs: type[Ports]
    module: str
    run: Callable[..., Any] = field(repr=False)
    citations: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """First line of the documentation."""
        return self.doc.partition("\n")[0]

    def input_ports(self) -> dict[str, Port]:
        """Declarations of the inputs by name."""
        return ports_of(self.inputs)

    def output_ports(self) -> dict[str, Port]:
        """Declarations of the outputs by name."""
        return ports_of(self.outputs)


def protocol(
    id: str, *, version: int, label: str, citations: tuple[str, ...] = ()
) -> Callable[[Run], Run]:
    """Declare the function below as a protocol.

    Args:
        id: `object.verb_what`, as `micrographs.estimate_ctf`.
        version: from 1; raised when results change for equal inputs.
        label: name for people.
        citations: references for the Methods paragraph.
    """

    def declare(run: Run) -> Run:
        check_protocol_id(id)
        params, inputs, outputs = _classes(run)
        doc = inspect.cleandoc(sys.modules[run.__module__].__doc__ or run.__doc__ or "")
        for declared in (params, inputs, outputs):
            declared.protocol_id = id
        inputs.are_inputs = inputs is not outputs
        spec = ProtocolSpec(
            id, version, label, doc, params, inputs, outputs, run.__module__, run, citations
        )
        setattr(run, SPEC_ATTRIBUTE, spec)
        return run

    return declare


def spec_of(run: Callable[..., Any]) -> ProtocolSpec:
    """Give what `@protocol` recorded of a function."""
    spec = getattr(run, SPEC_ATTRIBUTE, None)
    if not isinstance(spec, ProtocolSpec):
        raise TypeError(f"{run!r} is not a protocol: it has no @protocol above it")
    return spec


def _classes(run: Callable[..., Any]) -> tuple[type[Params], type[Ports], type[Ports]]:
    hints = get_type_hints(run)
    names = list(inspect.signature(run).parameters)
    if len(names) != 3:
        raise TypeError(f"{run.__qualname__} must take (ctx, params, inputs): got {names}")
    params, inputs, outputs = (hints.get(name) for name in (names[1], names[2], "return"))
    wanted = ((params, Params), (inputs, Ports), (outputs, Ports))
    for found, base in wanted:
        if not (isinstance(found, type) and issubclass(found, base)):
            raise TypeError(f"{run.__qualname__} must be annotated with a {base.__name__} class")
    return params, inputs, outputs  # type: ignore[return-value]
