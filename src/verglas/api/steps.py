"""Say what a workflow is made of: steps, links between them, and what each takes.

The steps of a workflow are data, so that help pages can list them without loading anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Step", "make_template"]


@dataclass(frozen=True)
class Step:
    """One job of a workflow.

    Attributes:
        name: by which `--set` and links call it.
        protocol: id.
        does: in a few words, for the help page.
        inputs: for each port the output of an earlier step, or several.
        takes: for each parameter the name of a quantity.
        params: values that are always the same.
        only: the circumstances in which the step belongs to the workflow, all of them.
        advice: what to do when the step gives nothing.
        label: of the job, where that of the protocol does not tell it from others.
    """

    name: str
    protocol: str
    does: str
    inputs: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    advice: str = ""
    label: str = ""

    def node(self, known: Mapping[str, Any], *, source: str) -> dict[str, Any]:
        """Return the step as a node of a template.

        Args:
            known: values of the quantities; those that are None are left to the protocol.
            source: name of the step that `source` means in links.
        """
        taken = {name: known[quantity] for name, quantity in self.takes.items()}
        taken = {name: value for name, value in taken.items() if value is not None}
        links = {}
        for port, given in self.inputs.items():
            names = [given] if isinstance(given, str) else list(given)
            links[port] = [name.replace("source.", f"{source}.") for name in names]
        return {
            "name": self.name,
            "protocol": self.protocol,
            "version": 1,
            "params": {**self.params, **taken},
            "inputs": links,
            "advice": self.advice,
            "label": self.label,
        }


def make_template(
    name: str,
    steps: Sequence[Step],
    known: Mapping[str, Any],
    *,
    circumstances: frozenset[str],
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make a workflow, as `Project.replay` takes it.

    Args:
        name: of the workflow.
        steps: in order; `source` in their links is the first that belongs to the workflow.
        known: values of the quantities that the steps take.
        circumstances: which steps belong to it.
        changes: more parameters, by name of the step.
    """
    chosen = [step for step in steps if circumstances.issuperset(step.only)]
    nodes = [step.node(known, source=chosen[0].name) for step in chosen]
    for node in nodes:
        node["params"].update((changes or {}).get(node["name"], {}))
    return {"format": 1, "name": name, "nodes": nodes}
