from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Real files beside the repository; tests that use them are marked `data`."""
    if not SHARED.is_dir():
        pytest.skip("the shared data sets are not beside the repository")
    return SHARED
