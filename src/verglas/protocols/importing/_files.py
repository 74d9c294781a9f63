"""What the importing protocols share: finding files, and the pixel sizes of their headers."""

import glob
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from verglas.core.errors import ParamsError
from verglas.sdk import Context

__all__ = ["file_table", "find_file", "find_files", "pixel_sizes"]

_TOLERANCE = 0.01  # relative difference of pixel sizes that is more than rounding


def find_files(
    ctx: Context, texts: Sequence[str], suffixes: tuple[str, ...], protocol_id: str
) -> list[Path]:
    """Find all files that paths, folders or patterns name, each once.

    Args:
        ctx: of the job; relative paths start from the project, or else the current folder.
        texts: as typed.
        suffixes: of the files that are taken from a folder, in small letters.
        protocol_id: for the message that nothing was found.
    """
    files: dict[Path, None] = {}
    for text in texts:
        matches = _expand(ctx, text, suffixes)
        if not matches:
            raise ParamsError(
                f"{protocol_id} files: nothing matches {text!r}",
                f"relative paths start from {str(ctx.root)!r} or the current folder",
            )
        files.update(dict.fromkeys(matches))
    return list(files)


def find_file(ctx: Context, text: str, protocol_id: str, name: str) -> Path:
    """Find the one file that a parameter names."""
    for base in dict.fromkeys((ctx.root, Path.cwd())):
        path = base / Path(text).expanduser()
        if path.is_file():
            return path
    raise ParamsError(
        f"{protocol_id} {name}: {text!r} does not exist",
        f"relative paths start from {str(ctx.root)!r} or the current folder",
    )


def _expand(ctx: Context, text: str, suffixes: tuple[str, ...]) -> list[Path]:
    """Find the files that a path, folder or pattern names, sorted."""
    for base in dict.fromkeys((ctx.root, Path.cwd())):
        path = base / Path(text).expanduser()
        if path.is_dir():
            inside = sorted(path.iterdir())
            return [file for file in inside if file.name.lower().endswith(suffixes)]
        if path.is_file():
            return [path]
        matches = sorted(glob.glob(str(path), recursive=True))
        if matches:
            return [Path(match) for match in matches]
    return []


def file_table(ctx: Context, files: Sequence[Path]) -> pl.DataFrame:
    """Paths with size and time, so that a changed file is looked at again."""
    stats = [file.stat() for file in files]
    return pl.DataFrame(
        {
            "item_id": range(len(files)),
            "image_path": [ctx.relative(file) for file in files],
            "n_bytes": [stat.st_size for stat in stats],
            "changed_ns": [stat.st_mtime_ns for stat in stats],
        },
        schema_overrides={"item_id": pl.Int64},
    )


def pixel_sizes(
    ctx: Context, header: pl.Series, given: float | None, protocol_id: str
) -> pl.Series:
    """Decide the pixel size of every file, warning where headers and parameter disagree.

    Args:
        ctx: of the job.
        header: what each file says, Å, or null.
        given: by the parameter.
        protocol_id: for messages.
    """
    if given is None:
        if header.null_count():
            raise ParamsError(
                f"{protocol_id} needs pixel_size_angst: {header.null_count()} of "
                f"{len(header)} files do not give it"
            )
        sizes = sorted(set(header.round(5).to_list()))
        if len(sizes) > 1:
            ctx.warn(
                f"pixel sizes in the headers differ, {sizes[0]:.4f} to {sizes[-1]:.4f} Å: "
                "each makes its own optics group"
            )
        return header.round(5)
    wrong = header.drop_nulls().filter((header.drop_nulls() / given - 1.0).abs() > _TOLERANCE)
    if len(wrong):
        ctx.warn(
            f"{len(wrong)} of {len(header)} headers give another pixel size, as {wrong[0]:.4f} Å: "
            f"{given:g} Å is used as given"
        )
    return pl.Series([given] * len(header), dtype=pl.Float64)
