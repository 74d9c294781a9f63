"""Time commands that must answer at once: `python benchmarks/cli.py [repeats]`.

Prints for each the shortest wall time of several starts, and the limit where one is set.
"""

import subprocess
import sys
import tempfile
import time

COMMANDS = {
    ("--help",): 0.5,
    ("process", "--help"): 0.5,
    ("run", "micrographs.estimate_ctf", "--help"): None,
    ("protocols",): None,
    ("jobs",): None,
}
PROGRAM = [sys.executable, "-c", "from verglas.cli.main import main; main()"]


def seconds_of(arguments: tuple[str, ...], folder: str, repeats: int) -> float:
    """Start a command several times and return the shortest time."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([*PROGRAM, *arguments], cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Time every command in an empty project."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*PROGRAM, "new", "."], cwd=folder, check=True, capture_output=True)
        for arguments, limit_s in COMMANDS.items():
            limit = "" if limit_s is None else f"   (limit {limit_s} s)"
            name = f"verglas {' '.join(arguments)}"
            print(f"{name:<52} {seconds_of(arguments, folder, repeats):8.3f} s{limit}", flush=True)


if __name__ == "__main__":
    main()
