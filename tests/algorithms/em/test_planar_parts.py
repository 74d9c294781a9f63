"""Parts of the particles that take turns within a pass."""

from dataclasses import replace

import torch

from tests.algorithms.em.test_planar import CONFIG, state_at, sums_of
from verglas.algorithms.em.average import CompactSpace, Shrinkage
from verglas.algorithms.em.planar import planar_mask
from verglas.algorithms.em.planar_parts import PartSums, others_averages, renewed_averages
from verglas.algorithms.em.planar_update import planar_update


def parts_at(classified, n_parts=3):
    state = state_at(classified, 2)
    return state, {part: sums_of(state, [50.0, 40.0], seed=part) for part in range(n_parts)}


def test_what_a_part_teaches_reaches_the_others_and_not_itself():
    state, sums = parts_at(5)
    known = PartSums.of(sums)
    renewed = known.renewed(1, sums_of(state, [50.0, 40.0], seed=7))
    orders, radius = sums[0].numerator.shape[1:]
    compact = CompactSpace.make(planar_mask(CONFIG, 24), radius=radius, n_orders=orders)
    shrinkage = Shrinkage.learn(known.ring_sums(), compact, tau=2.0)
    before, after = (others_averages(k.ring_sums(), shrinkage) for k in (known, renewed))
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])
    assert not torch.equal(before[2], after[2])


def test_rings_and_orders_that_are_new_are_empty_for_parts_that_did_not_see_them():
    state, sums = parts_at(5)
    known = PartSums.of(sums)
    _, orders, radius = sums[0].numerator.shape
    finer = replace(
        sums[1],
        numerator=torch.ones(2, orders + 3, radius + 2, dtype=torch.complex64),
        denominator=torch.ones(2, radius + 2),
    )
    found = known.renewed(1, finer)
    assert found.part_numerator.shape == (3, 2, orders + 3, radius + 2)
    assert torch.equal(found.part_numerator[1], finer.numerator)
    assert torch.equal(found.part_numerator[0, :, :orders, :radius], sums[0].numerator)
    assert not found.part_numerator[0, :, orders:].any()
    assert not found.part_denominator[0, :, radius:].any()
    averages = renewed_averages(CONFIG, state, found, 2).averages
    assert averages.shape[:2] == (1, 2)
    assert averages.isfinite().all()
    assert torch.equal(
        averages, renewed_averages(CONFIG, state, known.renewed(1, finer), 2).averages
    )


def test_sums_of_parts_survive_their_arrays():
    _, sums = parts_at(5)
    known = PartSums.of(sums)
    again = PartSums.from_arrays(known.to_arrays())
    assert torch.equal(again.part_numerator, known.part_numerator)
    assert torch.equal(again.part_denominator, known.part_denominator)


def test_rings_are_used_as_far_as_halves_agree_on_classes():
    # the sums of 50 views agree on every ring; noise alone on none beyond the first
    config = replace(CONFIG, start_resolution_angst=40.0, max_resolution_angst=12.0)
    state = replace(state_at(2, 2), radius=config.radius_at(0))
    for weight, is_resolved in ((50.0, True), (1e-4, False)):
        sums = {part: sums_of(state, [weight, weight], seed=part) for part in (0, 1)}
        new, _ = planar_update(config, state, sums)
        assert (new.radius > state.radius) == is_resolved
