import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest
import tifffile
from PIL import Image

from verglas.io.eer import write_eer
from verglas.io.mrc import write_mrc
from verglas.io.tiff import write_tiff

from .eer_files import draw_events
from .samples import PDB, RELION_30, RELION_31

N_FILES = 500


def _values(shape, dtype="uint8"):
    return np.random.default_rng(1).integers(0, 16, shape).astype(dtype)


def _make_mrc(folder):
    write_mrc(folder / "volume.mrc", _values((6, 7, 8)), 1.5)
    write_mrc(folder / "stack.mrcs", _values((4, 9, 10)), 1.5, "int16")
    write_mrc(folder / "half.mrc", _values((3, 9, 10)), 1.5, "float16")
    write_mrc(folder / "packed.mrc", _values((2, 9, 11)), 1.5, "uint4")
    data = (folder / "volume.mrc").read_bytes()
    (folder / "zipped.mrc.gz").write_bytes(gzip.compress(data))


def _make_tiff(folder):
    image = _values((3, 40, 50), "uint16")
    for compression in ("none", "deflate", "zstd"):
        write_tiff(folder / f"{compression}.tif", image, 1.5, compression=compression)
    tifffile.imwrite(folder / "lzw.tif", image[0], compression="lzw", predictor=True)
    tifffile.imwrite(folder / "jpeg.tif", _values((64, 64)), compression="jpeg")
    tifffile.imwrite(folder / "tiled.tif", image, tile=(16, 16), photometric="minisblack")
    tifffile.imwrite(folder / "big.tif", image, bigtiff=True, photometric="minisblack")


def _make_eer(folder):
    for is_first_form in (True, False):
        path = folder / f"first_{is_first_form}.eer"
        events = [draw_events((64, 96), n, seed=n) for n in (0, 50, 900)]
        write_eer(path, events, (64, 96), 1.0, is_first_form=is_first_form)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHQH", 259, 3, 1, 65001))
    data[at + 12 : at + 14] = struct.pack("<H", 65002)
    (folder / "tags.eer").write_bytes(data)


def _make_star(folder):
    (folder / "new.star").write_text(RELION_31)
    (folder / "old.star").write_text(RELION_30)
    (folder / "quoted.star").write_text(RELION_31.replace("opticsGroup1", "'a b'"))
    (folder / "zipped.star.gz").write_bytes(gzip.compress(RELION_31.encode()))


def _make_atoms(folder):
    (folder / "a.pdb").write_text(PDB)
    structure = gemmi.read_pdb_string(PDB)
    structure.setup_entities()
    (folder / "a.cif").write_text(structure.make_mmcif_document().as_string())


def _make_picture(folder):
    image = _values((40, 50)) * 10
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(_values((40, 50), "uint16")).save(folder / "deep.png")
    Image.fromarray(np.stack([image] * 3, axis=-1)).save(folder / "colours.png")
    Image.fromarray(image).save(folder / "a.jpg")
    Image.fromarray(np.stack([image] * 3, axis=-1)).save(folder / "b.jpg", progressive=True)


MAKERS = {
    "mrc": _make_mrc,
    "tiff": _make_tiff,
    "eer": _make_eer,
    "star": _make_star,
    "atoms": _make_atoms,
    "picture": _make_picture,
}


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_damaged_files_give_one_error_soon_and_in_little_memory(tmp_path, name):
    """500 files, each in less than 1 s and 512 MB, by a process of limited memory."""
    (tmp_path / "seeds").mkdir()
    MAKERS[name](tmp_path / "seeds")
    script = Path(__file__).with_name("fuzz.py")
    run = subprocess.run(
        [sys.executable, script, name, tmp_path, str(N_FILES)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    complaints = json.loads(run.stdout.splitlines()[-1])
    assert complaints == []
