"""Read hundreds of damaged files in a process with little memory; run by test_fuzz.py.

Usage: python fuzz.py FORMAT SEED_FOLDER N. Prints a JSON list of what went wrong: an error
other than FormatError, a file that took more than a second, an allocation that the limit
refused. The parent sees a crash by the exit code.
"""

import gzip
import json
import random
import resource
import struct
import sys
import time
import warnings
from pathlib import Path

from verglas.core.errors import FormatError
from verglas.io import star
from verglas.io.atoms import read_atoms
from verglas.io.eer import open_eer
from verglas.io.images import open_images
from verglas.io.mrc import open_mrc
from verglas.io.relion import read_relion
from verglas.io.star import read_star
from verglas.io.tiff import open_tiff

MAX_BYTES = 512 << 20
MAX_SECONDS = 1.0
_WORDS = (0, 1, 2, 255, 65535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x3FFFFFFF, 1 << 20)
_SNIPPETS = (b"loop_\n", b"data_\n", b"_a\n", b'"', b"'", b"#", b"\n\n", b"nan", b"1e999", b"-")


def damage(data: bytes, rng: random.Random) -> bytes:
    """Damage a file, sometimes inside its compression, sometimes by one character."""
    if data.startswith(b"\x1f\x8b") and rng.random() < 0.7:
        return gzip.compress(damage(gzip.decompress(data), rng), compresslevel=1)
    if rng.random() < 0.4:
        changed = bytearray(data)
        changed[rng.randrange(min(len(changed), 2000))] = rng.choice(b"0123456789+-._ \n\t\"'#aeN")
        return bytes(changed)
    return mutate(data, rng)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not changed:
            break
        # headers are where damage matters: half the hits go there
        last = min(len(changed), 1200) if rng.random() < 0.5 else len(changed)
        at = rng.randrange(last)
        kind = rng.randrange(7)
        if kind == 0:
            for _ in range(rng.randint(1, 20)):
                changed[rng.randrange(last)] = rng.randrange(256)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            del changed[at : at + rng.randint(1, 200)]
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 200))
        elif kind == 4:
            changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(_WORDS))
        elif kind == 5:
            changed[at:at] = rng.choice(_SNIPPETS)
        else:
            at -= at % 4
            changed[at : at + 4] = struct.pack("<I", rng.choice(_WORDS))
    return bytes(changed)


def _read_mrc(path: Path) -> None:
    open_mrc(path).read_all()


def _read_mrc_permissive(path: Path) -> None:
    reader = open_mrc(path, permissive=True)
    reader.read([reader.shape[0] - 1])


def _read_tiff(path: Path) -> None:
    open_tiff(path).read_all()


def _read_eer(path: Path) -> None:
    reader = open_eer(path)
    reader.render(0, len(reader.pages), upsampling=2)


def _read_star(path: Path) -> None:
    read_star(path)


def _read_star_compiled(path: Path) -> None:
    star._LARGE_BYTES = -1
    try:
        read_star(path)
    finally:
        star._LARGE_BYTES = 1 << 30


def _read_relion(path: Path) -> None:
    read_relion(path, pixel_size_angst=1.5)


def _read_atoms(path: Path) -> None:
    read_atoms(path)


def _read_picture(path: Path) -> None:
    open_images(path).read_all()


READERS = {
    "mrc": (_read_mrc, _read_mrc_permissive),
    "tiff": (_read_tiff,),
    "eer": (_read_eer,),
    "star": (_read_star, _read_star_compiled, _read_relion),
    "atoms": (_read_atoms,),
    "picture": (_read_picture,),
}


def read_one(path: Path, readers: tuple) -> list[str]:
    """Read a damaged file with every reader and tell what went wrong."""
    complaints = []
    for reader in readers:
        start = time.perf_counter()
        try:
            reader(path)
        except FormatError as error:
            if isinstance(error.__cause__, MemoryError):
                complaints.append(f"{reader.__name__}: out of memory: {error}")
        except Exception as error:
            complaints.append(f"{reader.__name__}: {type(error).__name__}: {error}")
        seconds = time.perf_counter() - start
        if seconds > MAX_SECONDS:
            complaints.append(f"{reader.__name__}: took {seconds:.1f} s")
    return complaints


def main() -> None:
    name, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    seeds = sorted((folder / "seeds").iterdir())
    warnings.simplefilter("ignore")
    readers = READERS[name]
    for seed in seeds:  # load the libraries, and see that the originals can be read
        for reader in readers:
            reader(seed)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rng = random.Random(20201120)
    complaints = []
    for i in range(count):
        seed = seeds[i % len(seeds)]
        path = folder / f"damaged{seed.suffixes[0]}{''.join(seed.suffixes[1:])}"
        path.write_bytes(damage(seed.read_bytes(), rng))
        found = read_one(path, readers)
        if found:
            (folder / f"failed{i}{path.suffix}").write_bytes(path.read_bytes())
            complaints += [f"{i} {seed.name}: {text}" for text in found]
    print(json.dumps(complaints))


if __name__ == "__main__":
    main()
