"""Make data/apoferritin/6z6u.cif.gz: one chain of PDB 6Z6U and the operators that give all 24.

    python tools/make_apoferritin_model.py 6z6u.pdb.gz

The deposited chains are copies of each other but for one residue of chain A; chain B, which is
like the others, is kept with its sodium ion, without waters. The operators are fitted and their
rotations, which are those of the octahedral group, rounded to whole numbers. Prints how far
the assembly is from the deposited atoms.
"""

import gzip
import sys
from pathlib import Path

import gemmi
import numpy as np

KEPT = "B"
TARGET = Path(__file__).parents[1] / "data" / "apoferritin" / "6z6u.cif.gz"


def positions(chain: gemmi.Chain) -> dict[tuple[int, str, str], np.ndarray]:
    return {
        (residue.seqid.num, residue.name, atom.name): np.array(atom.pos.tolist())
        for residue in chain
        for atom in residue
        if residue.name not in ("HOH", "NA", "MG")
    }


def operator(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit target = rotation @ source + offset, the rotation being one of the cube's."""
    covariance = (target - target.mean(0)).T @ (source - source.mean(0))
    u, _, vt = np.linalg.svd(covariance)
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    whole = np.round(rotation)
    assert np.abs(rotation - whole).max() < 1e-3, rotation
    return whole, np.median(target - source @ whole.T, axis=0).round(4)


def main(path: str) -> None:
    deposited = gemmi.read_structure(path)
    model = deposited[0]
    source = positions(model[KEPT])
    names = sorted(source)
    a = np.array([source[name] for name in names])
    assembly = gemmi.Assembly("1")
    assembly.author_determined = True
    generator = gemmi.Assembly.Gen()
    generator.chains = [KEPT]
    residuals = []
    for i, chain in enumerate(model):
        found = positions(chain)
        b = np.array([found[name] for name in names])
        rotation, offset = operator(a, b)
        residuals.append(((a @ rotation.T + offset - b) ** 2).sum(1))
        step = gemmi.Assembly.Operator()
        step.name = str(i + 1)
        step.transform = gemmi.Transform(
            gemmi.Mat33(rotation.tolist()), gemmi.Vec3(*offset.tolist())
        )
        generator.operators.append(step)
    assembly.generators.append(generator)
    squares = np.concatenate(residuals)
    print(f"{len(residuals)} chains, {len(squares)} atoms")
    print(f"rms {np.sqrt(squares.mean()):.4f} A, median {np.sqrt(np.median(squares)):.4f} A")
    kept = gemmi.Structure()
    kept.name = "6Z6U"
    kept.info["_entry.id"] = "6Z6U"
    kept.info["_struct.title"] = "1.25 A structure of human apoferritin, one chain of 24"
    kept.add_model(gemmi.Model(1))
    kept[0].add_chain(model[KEPT])
    kept.remove_waters()
    kept.setup_entities()
    generator.subchains = [chain.subchain_id() for chain in kept[0].subchains()]
    assembly.generators[0] = generator
    kept.assemblies.append(assembly)
    text = kept.make_mmcif_document().as_string()
    with gzip.GzipFile(TARGET, "wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode())
    print(f"{TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
