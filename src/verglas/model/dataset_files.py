"""Store a data set in a folder and open it again.

    dataset.json      kind, number of rows, content id, where the root and the base are
    table.parquet     all columns; or, for a derived data set,
    overlay.parquet   item_id of the kept rows and the changed columns
    optics.parquet    one row per optics group

The folder is written under a temporary name and renamed, so it exists whole or not at all.
All paths inside are relative, so that a project can be moved.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from verglas.core.errors import EngineError, FormatError
from verglas.core.files import atomic_folder, relative_path
from verglas.model.dataset import DataSet, overlaid
from verglas.model.kinds import KINDS, Kind
from verglas.model.tables import write_parquet

__all__ = ["is_dataset", "open_dataset", "read_manifest", "write_dataset"]

_FORMAT = 1
_MANIFEST = "dataset.json"
_OPTICS = "optics.parquet"
_TABLE = "table.parquet"
_OVERLAY = "overlay.parquet"


def is_dataset(folder: Path) -> bool:
    """Say whether a folder holds a data set."""
    return (folder / _MANIFEST).is_file()


def write_dataset(data: DataSet, folder: Path, *, is_materialised: bool = False) -> DataSet:
    """Store a data set; the folder appears whole or not at all.

    A folder that already holds the same content is left as it is, so that a job which is
    run again may write its outputs again.

    Args:
        data: kept as an overlay where its base is stored in the same root.
        folder: must not exist, or hold the same content.
        is_materialised: write all columns even where an overlay would do.

    Returns:
        The data set as opened from the folder.
    """
    if is_dataset(folder):
        if read_manifest(folder)["content"] != data.content:
            raise EngineError(f"data set folder {str(folder)!r} already has other content")
        return open_dataset(folder, data.root, data.id)
    base = None if is_materialised else _stored_base(data)
    with atomic_folder(folder) as temporary:
        if base is None or data.overlay is None:
            write_parquet(data.table.collect(), temporary / _TABLE)
        else:
            write_parquet(data.overlay.collect(), temporary / _OVERLAY)
        write_parquet(data.optics, temporary / _OPTICS)
        manifest = _manifest(data, folder, temporary, base)
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return open_dataset(folder, data.root, data.id)


def open_dataset(folder: Path, root: Path | None = None, dataset_id: str = "") -> DataSet:
    """Open a stored data set without reading its table.

    Args:
        folder: with `dataset.json`.
        root: folder that relative paths start from; by default as stored.
        dataset_id: number in the project as `d41`, for messages.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    root = (folder / manifest["root"]).resolve() if root is None else root.resolve()
    data = DataSet(
        kind=_kind(manifest["kind"]),
        table=pl.LazyFrame(),
        optics=_read_optics(folder / _OPTICS),
        root=root,
        n_items=manifest["n_items"],
        source=tuple(manifest["source"]),
        id=dataset_id,
        folder=folder,
        stored_content=manifest["content"],
    )
    if manifest["base"] is None:
        return replace(data, table=pl.scan_parquet(folder / _TABLE))
    overlay = pl.scan_parquet(folder / _OVERLAY)
    base = _open_base(root / manifest["base"], root, folder)
    if base.content != manifest["base_content"]:
        raise FormatError(f"base of data set {str(folder)!r} has changed: {manifest['base']!r}")
    return replace(data, table=overlaid(base.table, overlay), base=base, overlay=overlay)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `dataset.json` and check that the files beside it are there and whole."""
    path = folder / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        form, files = manifest["format"], dict(manifest["files"])
        for key in ("kind", "n_items", "content", "root", "base", "base_content", "source"):
            manifest[key]
    except FileNotFoundError:
        raise FormatError(f"no data set in {str(folder)!r}: dataset.json is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"damaged data set: cannot read {str(path)!r} ({error})") from error
    if form != _FORMAT:
        raise FormatError(
            f"data set {str(folder)!r} has format {form!r}: expected {_FORMAT}",
            "open it with a newer version of verglas",
        )
    for name, n_bytes in files.items():
        _check_size(folder / name, n_bytes)
    return manifest


def _open_base(base: Path, root: Path, folder: Path) -> DataSet:
    try:
        return open_dataset(base, root)
    except FormatError as error:
        raise FormatError(
            f"data set {str(folder)!r} rests on one that cannot be opened: {error.message}",
            error.hint,
        ) from error


def _read_optics(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FormatError(f"damaged data set: cannot read {str(path)!r} ({error})") from error


def _check_size(path: Path, n_bytes: int) -> None:
    got = path.stat().st_size if path.is_file() else None
    if got != n_bytes:
        found = "no file" if got is None else f"{got} bytes"
        raise FormatError(f"damaged data set: {str(path)!r} has {found}, expected {n_bytes} bytes")


def _stored_base(data: DataSet) -> DataSet | None:
    base = data.base
    if base is None or base.folder is None or base.root != data.root:
        return None
    return base


def _manifest(data: DataSet, folder: Path, temporary: Path, base: DataSet | None) -> dict[str, Any]:
    files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
    base_folder = None if base is None or base.folder is None else base.folder
    return {
        "format": _FORMAT,
        "kind": data.kind.id,
        "n_items": data.n_items,
        "content": data.content,
        "root": relative_path(data.root, folder.resolve()),
        "base": None if base_folder is None else relative_path(base_folder, data.root),
        "base_content": None if base is None else base.content,
        "source": list(data.source),
        "files": files,
    }


def _kind(kind_id: str) -> Kind:
    # a kind from a plugin that is not installed still opens: traits decide what it is good for
    return KINDS.get(kind_id) or Kind(kind_id, "Kind that is not installed.", ())
