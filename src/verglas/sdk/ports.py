"""Declare what data a protocol takes and gives.

    class Inputs(Ports):
        particles: DataSet = port(PARTICLES, needs=("ctf",))
        reference: DataSet | None = port(VOLUMES, optional=True)
        maps: list[DataSet] = port(VOLUMES, many=True)

A port has a kind and the traits that it needs; form, API and engine use the same check,
whose message names the missing columns and the protocols that make them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verglas.core.errors import PortError
from verglas.model import TRAITS, DataSet, Kind

__all__ = ["Port", "Ports", "check_port", "port", "ports_of"]


@dataclass(frozen=True)
class Port:
    """What one port takes or gives.

    Attributes:
        kind: what a row is.
        needs: traits beyond those of the kind.
        optional: may be left empty.
        many: takes a list of data sets.
        help: one sentence for the form.
    """

    kind: Kind
    needs: tuple[str, ...] = ()
    optional: bool = False
    many: bool = False
    help: str = ""


def port(
    kind: Kind,
    needs: Sequence[str] = (),
    *,
    optional: bool = False,
    many: bool = False,
    help: str = "",
) -> Any:
    """Declare one port.

    Args:
        kind: what a row is.
        needs: names of traits, as `("ctf", "pose3d")`; those of the kind are always needed.
        optional: may be left empty; annotate it `DataSet | None`.
        many: takes a list; annotate it `list[DataSet]`.
        help: one sentence for the form; the kind's meaning where empty.
    """
    unknown = [need for need in needs if need not in TRAITS]
    if unknown:
        raise TypeError(f"port needs unknown traits {unknown}: expected some of {list(TRAITS)}")
    declared = Port(kind, tuple(needs), optional, many, help or kind.meaning)
    extra: dict[str, Any] = {"port": declared}
    if many:
        return Field(default_factory=list, json_schema_extra=extra)
    return Field(None, json_schema_extra=extra) if optional else Field(json_schema_extra=extra)


class Ports(BaseModel):
    """Base class of the inputs and outputs of a protocol."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, revalidate_instances="never"
    )

    protocol_id: ClassVar[str] = ""
    """Set by `@protocol`; names the protocol in messages."""

    are_inputs: ClassVar[bool] = False
    """Set by `@protocol`; inputs must have items, outputs may be empty."""

    def __init__(self, **values: Any) -> None:
        _check_names(type(self), values)
        for name, declared in ports_of(type(self)).items():
            value = values.get(name)
            check_port(declared, name, value, owner=self.protocol_id, is_input=self.are_inputs)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise PortError(f"{type(self).__name__}: {error}") from None

    def items(self) -> dict[str, list[DataSet]]:
        """List the data sets of each port; an empty port has an empty list."""
        found: dict[str, list[DataSet]] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            found[name] = value if isinstance(value, list) else [value] if value else []
        return found


def ports_of(ports: type[Ports]) -> dict[str, Port]:
    """List the declarations of a class of ports by name."""
    declared = {}
    for name, info in ports.model_fields.items():
        extra = info.json_schema_extra
        if not isinstance(extra, dict) or not isinstance(extra.get("port"), Port):
            raise TypeError(f"{ports.__name__}.{name} must be declared with port()")
        declared[name] = extra["port"]
    return declared  # type: ignore[return-value]


def check_port(declared: Port, name: str, value: Any, *, owner: str, is_input: bool = True) -> None:
    """Raise a `PortError` with advice unless a value fits a port.

    Args:
        declared: the port.
        name: of the port.
        value: a data set, a list of them, or None.
        owner: protocol id for messages.
        is_input: refuse a data set without items, which no protocol can work on.
    """
    where = f"port {name!r} of {owner}" if owner else f"port {name!r}"
    if declared.many and not isinstance(value, list | tuple | None):
        raise PortError(f"{where} takes a list of data sets: got {_what(value)}")
    sets = list(value or ()) if declared.many else [] if value is None else [value]
    if not sets and not declared.optional:
        raise PortError(f"{where} is empty: expected {declared.kind}")
    for data in sets:
        if not isinstance(data, DataSet):
            raise PortError(f"{where} takes {declared.kind}: got {_what(data)}")
        if not declared.kind.takes(data.kind.id):
            raise PortError(f"{where} takes {declared.kind}: got {data.name}")
        needs = dict.fromkeys((*declared.kind.required, *declared.needs))
        data.require(needs, needed_by=owner or where)
        if is_input and not data.n_items:
            raise PortError(f"{data.name} has no items: {where} needs at least one")


def _check_names(ports: type[Ports], values: dict[str, Any]) -> None:
    unknown = [name for name in values if name not in ports.model_fields]
    if unknown:
        owner = ports.protocol_id or ports.__name__
        names = ", ".join(ports.model_fields) or "none"
        raise PortError(f"{owner} has no port {unknown[0]!r}", f"its ports are {names}")


def _what(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
