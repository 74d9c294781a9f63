"""Make the demonstration micrographs in data/apoferritin from the averaged EMPIAR-10146 images.

Usage: python tools/make_apoferritin_data.py FOLDER [--out data/apoferritin]

FOLDER holds the `*_avg.mrc` files described in the written README. Each becomes an 8-bit deflate
TIFF whose grey step is 1/12 of the noise sigma (the middle of the histogram): rounding then adds
1/(12 * 12^2) = 0.06 % to the noise variance, and 14.8 MB hold what took 41.7 MB as int16.
Row 0 of the TIFF is the top line, the last row of the MRC file.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from verglas.io.mrc import read_mrc
from verglas.io.tiff import read_tiff, write_tiff

STEPS_PER_SIGMA = 12
MIDDLE_CODE = 128
SIGMA_PERCENTILES = (15.865, 84.135)
PIXEL_SIZE_ANGST = 1.5
MAX_TOTAL_BYTES = 16_000_000

README = """# Apoferritin micrographs

Fourteen real micrographs of horse spleen apoferritin: 13 good ones and a drifted one
(`May08_06.09.02_avg.tif`), for the demonstration. About 2100 particles, 24-fold symmetry each.

| | |
|---|---|
| origin | EMPIAR-10146, the entry of the cisTEM tutorial |
| licence | CC0, as everything in EMPIAR |
| carried by | GitHub jianlin-cheng/AutoCryoPicker@9902210, "cryo-EM Dataset/\
Apoferritin_cryo-EM_Dataset_after_averaging_EMAN2", 16-bit PNG |
| voltage | 300 kV |
| spherical aberration | 0.001 mm (Cs-corrected microscope) |
| amplitude contrast | 0.07 |
| pixel size | 1.5 Å (in the TIFF resolution tags too) |
| exposure | 100 e/Å^2 in 50 frames of 2, averaged without dose weighting |
| size | 1240 x 1200 pixels |
| contrast | protein dark |

The scale of the counts was lost in the PNG files, which clip at about 5 sigma; grey values are
linear in the counts. Row 0 here is the top line, as in the PNG files. Whether the archive holds
this order or its mirror image is not known, so neither is the hand of a map made from them.

Made by `tools/make_apoferritin_data.py` from MRC files (int16) with the PNG values minus 32768:
`code = round((value - middle) / step) + 128`, `step` being 1/12 of the noise sigma, deflate.

| file | bytes | middle | step | correlation with source | sha256 of the MRC source |
|---|---|---|---|---|---|
"""

MODEL = """
## Atomic model

`6z6u.cif.gz` is PDB 6Z6U, human heavy-chain apoferritin at 1.25 Å (Yip, Fischer, Paknia, Chari &
Stark 2020), CC0 as everything in the PDB: chain B with its sodium ion, without waters, and the 24
operators that give the others. Against the deposited 24 chains the assembly is off by 0.0045 Å
rms (0.013 Å at most, but for residue 31 of chain A, which is modelled otherwise there); the two
magnesium ions are left out. Made by `tools/make_apoferritin_model.py` from the PDB file.
"""


def encode(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Scale to 8 bits by the median and the middle 68 % of the histogram."""
    low, middle, high = np.percentile(image, [SIGMA_PERCENTILES[0], 50.0, SIGMA_PERCENTILES[1]])
    step = (high - low) / 2 / STEPS_PER_SIGMA
    codes = np.clip(np.rint((image - middle) / step) + MIDDLE_CODE, 0, 255).astype(np.uint8)
    return codes, float(middle), float(step)


def convert(source: Path, target: Path) -> str:
    """Write one TIFF and return its line of the README's table."""
    image = read_mrc(source)[0][0]
    codes, middle, step = encode(image)
    write_tiff(target, codes, PIXEL_SIZE_ANGST, is_predicted=False)
    back, pixel_size_angst = read_tiff(target)
    if pixel_size_angst != PIXEL_SIZE_ANGST:
        raise SystemExit(f"{target.name}: pixel size reads back as {pixel_size_angst}")
    correlation = np.corrcoef(image.ravel(), back.ravel())[0, 1]
    if correlation < 0.9995:
        raise SystemExit(f"{target.name}: correlation with the source is only {correlation:.6f}")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    size = target.stat().st_size
    return (
        f"| {target.name} | {size} | {middle:.1f} | {step:.3f} | {correlation:.6f} | `{digest}` |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/apoferritin"))
    args = parser.parse_args()
    sources = sorted(args.folder.glob("*_avg.mrc"))
    if len(sources) != 14:
        raise SystemExit(f"expected 14 *_avg.mrc files in {args.folder}, got {len(sources)}")
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [convert(source, args.out / f"{source.stem}.tif") for source in sources]
    (args.out / "README.md").write_text(README + "\n".join(lines) + "\n" + MODEL, encoding="utf-8")
    total = sum(file.stat().st_size for file in args.out.iterdir())
    if total > MAX_TOTAL_BYTES:
        raise SystemExit(f"{total} bytes in all, at most {MAX_TOTAL_BYTES} wanted")
    print(f"{len(sources)} micrographs, {total / 1e6:.1f} MB in {args.out}")


if __name__ == "__main__":
    main()
