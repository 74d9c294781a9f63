"""Commands on protocols: list them, print the schema of one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from verglas.cli._console import print_json, print_table, warn
from verglas.cli._options import AsJson

if TYPE_CHECKING:
    from verglas.sdk.ports import Port
    from verglas.sdk.protocol import ProtocolSpec

__all__ = ["list_protocols", "show_schema"]


def list_protocols(
    contains: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only ids and labels with this text.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the protocols with what they take and give."""
    from verglas.core.registry import load_registry

    registry = load_registry()
    specs: list[ProtocolSpec] = [
        spec
        for name, spec in sorted(registry.protocols.items())
        if contains.lower() in f"{name} {spec.label}".lower()
    ]
    if as_json:
        print_json([_described(spec) for spec in specs])
    else:
        rows = [
            [spec.id, spec.label, _ports(spec.input_ports()), _ports(spec.output_ports())]
            for spec in specs
        ]
        print_table("", ("protocol", "label", "takes", "gives"), rows)
    for broken in registry.broken:
        warn(f"{broken.name} cannot be imported: {broken.error}")


def show_schema(
    protocol_id: Annotated[str, typer.Argument(metavar="PROTOCOL", help="As particles.extract.")],
) -> None:
    """Print parameters and ports of a protocol as JSON."""
    from verglas.core.registry import find_protocol
    from verglas.sdk.params import json_schema

    spec: ProtocolSpec = find_protocol(protocol_id)
    print_json({**_described(spec), "doc": spec.doc, "params": json_schema(spec.params)})


def _described(spec: "ProtocolSpec") -> dict[str, Any]:
    return {
        "id": spec.id,
        "version": spec.version,
        "label": spec.label,
        "summary": spec.summary,
        "inputs": {name: _port_json(port) for name, port in spec.input_ports().items()},
        "outputs": {name: _port_json(port) for name, port in spec.output_ports().items()},
        "citations": list(spec.citations),
    }


def _port_json(port: "Port") -> dict[str, Any]:
    return {
        "kind": port.kind.id,
        "needs": list(port.needs),
        "optional": port.optional,
        "many": port.many,
        "help": port.help,
    }


def _ports(ports: "dict[str, Port]") -> str:
    words = []
    for name, port in ports.items():
        kind = "" if port.kind.id == name else f" ({port.kind.id})"
        many = " ..." if port.many else ""
        words.append(f"[{name}{kind}{many}]" if port.optional else f"{name}{kind}{many}")
    return ", ".join(words) or "nothing"
