"""A project with the number protocols, its chunks run in this process."""

import pytest

from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.engine.placement import Placement

IN_PROCESS = Placement("in_process")


@pytest.fixture
def project(tmp_path):
    with Project.create(
        tmp_path / "p", registry=number_registry(), placement=IN_PROCESS
    ) as project:
        yield project
