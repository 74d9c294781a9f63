"""How starts become one map: rounds of starts until two of them find the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from verglas.protocols.initial._chunks import START, Leg, pack, run_final, run_heat, unpack
from verglas.sdk import ArrayRef, Context

if TYPE_CHECKING:
    from verglas.algorithms.em.candidate import Candidate
    from verglas.algorithms.em.first_map_plan import FirstMapConfig

__all__ = ["SURE", "Found", "Race", "find_map"]

SURE = 0.8  # agreement of two starts that found the same particle
# between two maps that have not settled; right ones of 300 particles at 10 Å reach 0.78, right
# and wrong ones at most 0.52 (SNR 0.5, C1)
_PROMISING = 0.65
_HEAT = 3  # searches that share the reading of the particles


@dataclass(frozen=True)
class Race:
    """What the starts compete for, and how many there are.

    Attributes:
        rows: the particles.
        config: of the searches.
        noise: shell powers, put for the chunks.
        n_searches: starts of a round.
        n_finalists: of these, how many are opened at full resolution.
        max_rounds: of starts, until the likeliest is confirmed.
    """

    rows: pl.DataFrame
    config: "FirstMapConfig"
    noise: ArrayRef
    n_searches: int
    n_finalists: int
    max_rounds: int


@dataclass(frozen=True)
class Found:
    """The chosen map.

    Attributes:
        best: the likeliest candidate.
        agreement: of the fullest map with that of another start; 0 if there is none.
        n_starts: tried.
    """

    best: "Candidate"
    agreement: float
    n_starts: int


def find_map(ctx: Context, race: Race) -> Found:
    """Run rounds of starts until two finished maps agree, and return the likelier.

    Args:
        ctx: of the job.
        race: what to run.
    """
    known: dict[int, Candidate] = {}
    for n in range(1, race.max_rounds + 1):
        ctx.progress(n - 1, race.max_rounds, f"round {n} of at most {race.max_rounds}")
        first = 1000 * ctx.seed + (n - 1) * race.n_searches
        passed = _heats(ctx, race, range(first, first + race.n_searches))
        known, partner = _open(ctx, race, known, passed)
        if partner is None and n < race.max_rounds:
            continue
        best, *others = known
        pair = [best, *others[:1]] if partner is None else [best, partner]
        settled = _finals(ctx, race, {seed: known[seed] for seed in pair}, Leg.SETTLE)
        settled = _by_evidence(settled)
        agreement = _agreement(race.config, *settled.values()) if len(settled) > 1 else 0.0
        if agreement >= SURE:
            break
        known |= settled
    return Found(next(iter(settled.values())), agreement, n * race.n_searches)


def _open(
    ctx: Context, race: Race, known: "dict[int, Candidate]", passed: "dict[int, Candidate]"
) -> "tuple[dict[int, Candidate], int | None]":
    """Open finalists; return all that are known by evidence, and who confirms the likeliest."""
    for leg in (Leg.OPEN, Leg.REOPEN):
        opened = _finals(ctx, race, passed, leg)
        known = _by_evidence(known | opened)
        partner = _partner(ctx, race.config, known)
        if partner is not None:
            return known, partner
        passed = opened
    return known, None


def _by_evidence(candidates: "Mapping[int, Candidate]") -> "dict[int, Candidate]":
    return dict(sorted(candidates.items(), key=lambda item: -item[1].loglik))


def _for_each(starts: Sequence[int], rows: pl.DataFrame) -> pl.DataFrame:
    """Repeat the particles for every start or heat."""
    return pl.DataFrame({START: list(starts)}).join(rows, how="cross")


def _heats(ctx: Context, race: Race, seeds: Sequence[int]) -> "dict[int, Candidate]":
    """Run all starts of a round at low resolution; return those that go on, by seed."""
    from verglas.algorithms.em.candidate import finalists

    n_heats = -(-len(seeds) // _HEAT)
    heats = {seeds[i]: list(seeds[i::n_heats]) for i in range(n_heats)}
    found = ctx.accumulate(
        run_heat,
        _for_each(list(heats), race.rows),
        chunk=race.rows.height,
        by=START,
        gpus=1,
        config=race.config,
        noise=race.noise,
        seeds=heats,
    )
    arrays = {name: value for sums in found.sums.values() for name, value in sums.items()}
    judged = {seed: unpack(arrays, f"{seed}_") for seed in seeds}
    ranked = _by_evidence(judged)
    ctx.log.info("evidence of starts: %s", ", ".join(f"{c.loglik:.2f}" for c in ranked.values()))
    passed = finalists(list(judged.values()), race.n_finalists)
    return {seeds[i]: judged[seeds[i]] for i in passed}


def _finals(
    ctx: Context, race: Race, starts: "Mapping[int, Candidate]", leg: Leg
) -> "dict[int, Candidate]":
    """Take starts on at full resolution, each in a chunk of its own; return them judged."""
    found = ctx.accumulate(
        run_final,
        _for_each(list(starts), race.rows),
        chunk=race.rows.height,
        by=START,
        gpus=1,
        config=race.config,
        noise=race.noise,
        starts={seed: ctx.put(pack(start)) for seed, start in starts.items()},
        leg=leg,
    )
    return {seed: unpack(arrays) for seed, arrays in found.sums.items()}


def _partner(
    ctx: Context, config: "FirstMapConfig", ranked: "Mapping[int, Candidate]"
) -> int | None:
    """Return the likeliest start that agrees with the likeliest of all, if any does."""
    best, *others = ranked
    ctx.log.info("start %d: evidence %.2f", best, ranked[best].loglik)
    for seed in others:
        agreement = _agreement(config, ranked[best], ranked[seed])
        text = "start %d: evidence %.2f, agreement with the best %.2f"
        ctx.log.info(text, seed, ranked[seed].loglik, agreement)
        if agreement >= _PROMISING:
            return seed
    return None


def _agreement(config: "FirstMapConfig", one: "Candidate", other: "Candidate") -> float:
    """Return the agreement of the fullest maps of two candidates."""
    from verglas.algorithms.em.agreement import map_agreement

    a, b = (c.maps[int(c.class_weight.argmax())] for c in (one, other))
    return map_agreement(
        a,
        b,
        pixel_size_angst=config.extent_angst / a.shape[-1],
        diameter_angst=config.diameter_angst,
        resolution_angst=config.max_resolution_angst,
        symmetry=config.symmetry,
    )
