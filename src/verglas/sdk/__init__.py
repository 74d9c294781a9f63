"""The contract between protocols and everything that runs, shows or describes them."""

from verglas.sdk.arrays import ArrayRef, Arrays
from verglas.sdk.context import Accumulated, Context, JobCancelled
from verglas.sdk.params import Params, changed_params, json_schema, param
from verglas.sdk.ports import Port, Ports, port
from verglas.sdk.protocol import ProtocolSpec, protocol, spec_of
from verglas.sdk.states import State
from verglas.sdk.task import Task
from verglas.sdk.tool import Command, Completed, Tool
from verglas.sdk.viewer import Viewer, viewer

__all__ = [
    "Accumulated",
    "ArrayRef",
    "Arrays",
    "Command",
    "Completed",
    "Context",
    "JobCancelled",
    "Params",
    "Port",
    "Ports",
    "ProtocolSpec",
    "State",
    "Task",
    "Tool",
    "Viewer",
    "changed_params",
    "json_schema",
    "param",
    "port",
    "protocol",
    "spec_of",
    "viewer",
]
