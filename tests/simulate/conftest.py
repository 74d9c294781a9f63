"""Specimens that several tests share, made once."""

import numpy as np
import pytest

from verglas.simulate.atoms import Atoms
from verglas.simulate.phantom import apoferritin_like, asymmetric_complex


@pytest.fixture(scope="session")
def shell() -> Atoms:
    return apoferritin_like(0)


@pytest.fixture(scope="session")
def complex_atoms() -> Atoms:
    return asymmetric_complex(0)


@pytest.fixture(scope="session")
def few_atoms() -> Atoms:
    """300 atoms of four elements and any B factor, within 40 Å of the origin."""
    rng = np.random.default_rng(0)
    return Atoms.from_arrays(
        np.clip(rng.normal(0, 12, (300, 3)), -40, 40),
        rng.choice([6, 7, 8, 16], 300),
        rng.uniform(10, 60, 300),
        rng.choice([0.5, 1.0], 300),
    )
