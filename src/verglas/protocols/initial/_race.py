"""How starts become one map: rounds of starts until two of them find the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from verglas.protocols.initial._chunks import START, pack, run_final, run_heat, unpack
from verglas.sdk import ArrayRef, Context

if TYPE_CHECKING:
    from verglas.algorithms.em.candidate import Candidate
    from verglas.algorithms.em.first_map_plan import FirstMapConfig

__all__ = ["SURE", "Found", "Race", "find_map"]

SURE = 0.8  # agreement of two starts that found the same particle
_HEAT = 3  # searches that share the reading of the particles
_SETTLED = 2  # candidates taken to the end: the likeliest, and the one that confirms it


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
    """Run rounds of starts until two agree, take the best two to the end, and choose.

    Args:
        ctx: of the job.
        race: what to run.
    """
    opened: dict[int, Candidate] = {}
    n_starts = 0
    for _ in range(race.max_rounds):
        seeds = [1000 * ctx.seed + n_starts + i for i in range(race.n_searches)]
        n_starts += len(seeds)
        ctx.progress(0, 3, f"{n_starts} starts")
        passed = _heats(ctx, race, seeds)
        ctx.progress(1, 3, f"{len(passed)} finals")
        opened = _by_evidence(opened | _finals(ctx, race, passed, settle=False))
        agreements = _agreements(race.config, opened)
        _log(ctx, opened, agreements)
        if max(agreements[1:], default=0.0) >= SURE:
            break
    chosen = _confirmed(opened, agreements)
    ctx.progress(2, 3, "best two")
    settled = _by_evidence(_finals(ctx, race, chosen, settle=True))
    agreements = _agreements(race.config, settled)
    _log(ctx, settled, agreements)
    return Found(next(iter(settled.values())), max(agreements[1:], default=0.0), n_starts)


def _by_evidence(candidates: "Mapping[int, Candidate]") -> "dict[int, Candidate]":
    return dict(sorted(candidates.items(), key=lambda item: -item[1].loglik))


def _log(ctx: Context, ranked: "Mapping[int, Candidate]", agreements: Sequence[float]) -> None:
    for (seed, candidate), agreement in zip(ranked.items(), agreements, strict=True):
        ctx.log.info(
            "start %d: evidence %.2f, agreement with the best %.2f",
            seed,
            candidate.loglik,
            agreement,
        )


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
    ctx: Context, race: Race, starts: "Mapping[int, Candidate]", *, settle: bool
) -> "dict[int, Candidate]":
    """Take starts on at full resolution, each in a chunk of its own; return them judged."""
    found = ctx.accumulate(
        run_final,
        _for_each(list(starts), race.rows),
        chunk=race.rows.height,
        by=START,
        config=race.config,
        noise=race.noise,
        starts={seed: ctx.put(pack(start)) for seed, start in starts.items()},
        settle=settle,
    )
    return {seed: unpack(arrays) for seed, arrays in found.sums.items()}


def _agreements(config: "FirstMapConfig", ranked: "Mapping[int, Candidate]") -> list[float]:
    """Return the agreement of each candidate's fullest map with that of the first."""
    from verglas.algorithms.em.agreement import map_agreement

    fullest = [one.maps[int(one.class_weight.argmax())] for one in ranked.values()]
    return [1.0] + [
        map_agreement(
            fullest[0],
            other,
            pixel_size_angst=config.extent_angst / fullest[0].shape[-1],
            diameter_angst=config.diameter_angst,
            resolution_angst=config.max_resolution_angst,
            symmetry=config.symmetry,
        )
        for other in fullest[1:]
    ]


def _confirmed(
    ranked: "Mapping[int, Candidate]", agreements: Sequence[float]
) -> "dict[int, Candidate]":
    """Return the likeliest, and the one that agrees with it best, or else the next likeliest."""
    seeds = list(ranked)
    others = sorted(range(1, len(seeds)), key=lambda i: -agreements[i])
    if others and agreements[others[0]] < SURE:
        others.sort()
    kept = [0, *others][:_SETTLED]
    return {seeds[i]: ranked[seeds[i]] for i in kept}
