"""A large project opens at once, and its particles are filtered at once."""

import time

import pytest

from tests.project.big_project import write_big_project
from verglas.api.project import Project
from verglas.api.query import select_where
from verglas.model import write_dataset


def measure(tmp_path, n_particles):
    root = tmp_path / "p"
    write_big_project(root, 500, n_particles)
    Project.open(root).close()

    started_s = time.perf_counter()
    project = Project.open(root)
    assert len(project.records()) == 500
    assert project.dataset("d1").n_items == n_particles
    opened_s = time.perf_counter()
    subset = select_where(project.dataset("d1"), ["score < 0.5"])
    write_dataset(subset, root / "subset")
    filtered_s = time.perf_counter()
    assert 0.4 < subset.n_items / n_particles < 0.6
    assert opened_s - started_s < 2.0
    assert filtered_s - opened_s < 1.0


def test_project_of_500_jobs_opens_within_two_seconds(tmp_path):
    measure(tmp_path, 50_000)


@pytest.mark.slow
def test_project_of_500_jobs_and_a_million_particles_opens_within_two_seconds(tmp_path):
    measure(tmp_path, 1_000_000)
