"""RELION on this machine, for comparison with our jobs."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from verglas.api.bench_cases import Case
from verglas.api.bench_cost import Cost, run_tree
from verglas.api.bench_stack import Stack

__all__ = ["Peer", "find_peer", "run_peer"]


@dataclass(frozen=True)
class Peer:
    """A peer's programs on this machine."""

    folder: Path
    version: str


def find_peer() -> Peer | None:
    """Look for RELION on the search path, and ask it for its version."""
    found = shutil.which("relion_refine")
    if found is None:
        return None
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return Peer(Path(found).parent, lines[0].strip() if lines else "version not told")


def run_peer(peer: Peer, case: Case, stack: Stack, folder: Path, limit_s: float) -> Cost | None:
    """Run RELION's program for a case; None where it cannot be, or does not end well.

    Args:
        peer: where it is.
        case: what.
        stack: with STAR files.
        folder: for what it writes.
        limit_s: it is ended after so long.
    """
    if not case.relion or stack.folder is None:
        return None
    out = folder / f"relion-{case.name}"
    out.mkdir(parents=True, exist_ok=True)
    program, *arguments = (word.format(out=out) for word in case.relion)
    command = [str(peer.folder / program), *arguments]
    if program.endswith("_mpi"):
        command = ["mpirun", "-n", "3", "--oversubscribe", *command, "--j", "1"]
    code, cost = run_tree(command, stack.folder, out / "log.txt", limit_s)
    return cost if code == 0 else None
