"""Say what data are: columns, traits, kinds and data sets."""

from verglas.model.column import Column
from verglas.model.columns import COLUMNS
from verglas.model.dataset import DataSet, make_dataset
from verglas.model.dataset_files import open_dataset, write_dataset
from verglas.model.kinds import (
    ANY,
    ATOMS,
    CLASSES2D,
    COORDINATES,
    CURVES,
    KINDS,
    MASKS,
    MICROGRAPHS,
    MODELS,
    MOVIES,
    PARTICLES,
    VOLUMES,
    Kind,
)
from verglas.model.traits import TRAITS, Trait

__all__ = [
    "ANY",
    "ATOMS",
    "CLASSES2D",
    "COLUMNS",
    "COORDINATES",
    "CURVES",
    "KINDS",
    "MASKS",
    "MICROGRAPHS",
    "MODELS",
    "MOVIES",
    "PARTICLES",
    "TRAITS",
    "VOLUMES",
    "Column",
    "DataSet",
    "Kind",
    "Trait",
    "make_dataset",
    "open_dataset",
    "write_dataset",
]
