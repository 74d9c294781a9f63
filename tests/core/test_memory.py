"""What is refused, and what is only warned of, when memory is short."""

import pytest

from verglas.core.errors import UserError
from verglas.core.memory import Memory, check_memory, memory_of_machine


def test_what_never_fits_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"takes about 9\.0 GB .* has 8\.0 GB") as caught:
        check_memory(9.0, "a refinement of 256 px", "bin the particles", Memory(8.0, 7.0))
    assert "bin the particles" in str(caught.value.hint)


def test_what_is_tight_is_warned_of():
    said = check_memory(6.0, "a refinement", "bin the particles", Memory(8.0, 4.0))
    assert "4.0 GB are free" in said
    assert check_memory(3.0, "a refinement", "bin the particles", Memory(8.0, 4.0)) is None


def test_the_limit_of_a_container_counts(tmp_path):
    there = memory_of_machine(tmp_path)
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "memory.current").write_text("500000000\n")
    limited = memory_of_machine(tmp_path)
    assert limited.total_gb == pytest.approx(2e9 / 1e9, rel=0.1)
    assert limited.free_gb <= 1.6 <= there.total_gb
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of_machine(tmp_path).total_gb == there.total_gb
