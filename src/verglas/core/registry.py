"""Find protocols, viewers, tools and kinds, built in or from plugins.

Modules are found by name below `verglas.protocols` and `verglas.viewers`, and below the
packages that the entry-point group `verglas.plugins` names. Nothing is imported here
statically, so that this module may stay at the bottom of the layers. A module that fails
to import is listed as broken and the rest works; two things of one id are an error.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType, ModuleType
from typing import Any

from verglas.core.errors import UserError

__all__ = [
    "SPEC_ATTRIBUTE",
    "Broken",
    "Registry",
    "find_protocol",
    "load_registry",
    "scan_package",
]

SPEC_ATTRIBUTE = "__verglas_spec__"
"""A decorated function carries its spec under this name."""

_PLUGIN_GROUP = "verglas.plugins"
_PLUGIN_PARTS = ("protocols", "kinds", "viewers", "tools")
_PROTOCOLS = "verglas.protocols"
_BUILT_IN = (_PROTOCOLS, "verglas.viewers")


@dataclass(frozen=True)
class Broken:
    """A module or plugin that could not be imported, and why."""

    name: str
    error: str


@dataclass
class Registry:
    """What was found: for each category a mapping from id to the thing.

    An entry of `protocols` is the spec, whose `run` is the function.
    """

    protocols: dict[str, Any] = field(default_factory=dict)
    viewers: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, Any] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    def protocol(self, protocol_id: str) -> Any:
        """Look up the spec of a protocol, or raise with the nearest ids."""
        if protocol_id in self.protocols:
            return self.protocols[protocol_id]
        nearest = get_close_matches(protocol_id, self.protocols, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "see `verglas protocols`"
        raise UserError(f"unknown protocol {protocol_id!r}", hint)

    def add(self, module: ModuleType) -> None:
        """Add everything that a module defines."""
        for value in vars(module).values():
            item = _registrable(value)
            if item is None:
                continue
            entries: dict[str, Any] = getattr(self, f"{item.registry_category}s")
            known = entries.setdefault(item.id, item)
            if known is not item and known != item:
                raise UserError(
                    f"{item.registry_category} {item.id!r} is defined twice: "
                    f"by {_origin(known)} and by {_origin(item)}",
                    "uninstall one of the two plugins",
                )


def load_registry() -> Registry:
    """Find everything that is installed."""
    registry = Registry()
    for package in _BUILT_IN:
        scan_package(registry, package)
    _scan_plugins(registry)
    return registry


def find_protocol(protocol_id: str) -> Any:
    """Look up the spec of one protocol without importing all of them.

    Of what is built in, only modules are imported whose name says that they may have it:
    `movies.screen_drift` is in `screen_drift`, `movies.import` in `movies_import`.

    Args:
        protocol_id: of the protocol.
    """
    registry = Registry()
    likely = {protocol_id.partition(".")[2], protocol_id.replace(".", "_")}
    for name in _module_names(registry, _PROTOCOLS):
        if name.rpartition(".")[2] in likely:
            module = _import(registry, name)
            if module is not None:
                registry.add(module)
    _scan_plugins(registry)
    if protocol_id not in registry.protocols:
        registry = load_registry()
    return registry.protocol(protocol_id)


def scan_package(registry: Registry, package: str) -> None:
    """Import every module of a package and add what it defines.

    Args:
        registry: grows.
        package: dotted name; a package that does not exist adds nothing.
    """
    for name in _module_names(registry, package):
        module = _import(registry, name)
        if module is not None:
            registry.add(module)


def _scan_plugins(registry: Registry) -> None:
    for entry in sorted(entry_points(group=_PLUGIN_GROUP), key=lambda entry: entry.name):
        _scan_plugin(registry, entry)


def _scan_plugin(registry: Registry, entry: EntryPoint) -> None:
    package = entry.value.partition(":")[0]
    if _import(registry, package) is None:
        return
    for part in _PLUGIN_PARTS:
        if importlib.util.find_spec(f"{package}.{part}") is not None:
            scan_package(registry, f"{package}.{part}")


def _module_names(registry: Registry, package: str) -> Iterator[str]:
    if importlib.util.find_spec(package) is None:
        return
    yield package
    root = _import(registry, package)
    for found in pkgutil.iter_modules(getattr(root, "__path__", []), prefix=f"{package}."):
        if found.ispkg:
            yield from _module_names(registry, found.name)
        else:
            yield found.name


def _import(registry: Registry, name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a plugin may raise anything; it must not stop the others
        broken = Broken(name, f"{type(error).__name__}: {error}")
        if broken not in registry.broken:
            registry.broken.append(broken)
        return None


def _registrable(value: Any) -> Any | None:
    # the class is asked, not the object: some objects answer any attribute (polars.col)
    if isinstance(value, FunctionType):
        value = getattr(value, SPEC_ATTRIBUTE, None)
    return value if isinstance(getattr(type(value), "registry_category", None), str) else None


def _origin(item: Any) -> str:
    return repr(getattr(item, "module", type(item).__module__))
