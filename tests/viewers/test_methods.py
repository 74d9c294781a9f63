"""The Methods paragraph: complete sentences, whatever a job says or does not say."""

import re

import pytest

from verglas.core.registry import load_registry
from verglas.viewers.methods import MethodStep, write_methods

CTF = MethodStep(
    "micrographs.estimate_ctf",
    "Estimate CTF",
    params={
        "min_res_angst": 30.0,
        "max_res_angst": 3.0,
        "min_defocus_angst": 5000.0,
        "max_defocus_angst": 50000.0,
        "max_fit_res_angst": 10.0,
        "max_drift_angst": 25.0,
    },
    numbers={"median_fit_res_angst": 3.4},
    items_in={"micrographs": ("micrographs", 14)},
    items_out={"micrographs": ("micrographs", 13), "rejected": ("micrographs", 1)},
    citations=("Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008", "Zhang 2016"),
)


def test_sentences_hold_numbers_and_references():
    (text,), references = write_methods([CTF], version="1.2")
    assert text == (
        "Images were processed with Verglas 1.2. The contrast transfer function of each "
        "micrograph was estimated from its power spectrum between 30 Å and 3 Å for defoci of "
        "0.5 to 5 µm. 13 of 14 micrographs whose Thon rings reach 10 Å and that moved less than "
        "25 Å were kept (median fit resolution 3.4 Å) [1, 2]."
    )
    assert [(r.number, r.text, r.doi) for r in references] == [
        (1, "Rohou & Grigorieff 2015", "10.1016/j.jsb.2015.08.008"),
        (2, "Zhang 2016", ""),
    ]


def test_reference_that_is_named_twice_is_listed_once():
    again = MethodStep("volumes.postprocess", "Post-process", citations=CTF.citations[:1])
    paragraphs, references = write_methods([CTF, again])
    assert len(references) == 2
    assert paragraphs[1].endswith("[1].")


@pytest.mark.parametrize("protocol_id", sorted(load_registry().protocols))
def test_every_protocol_has_sentences_even_without_numbers(protocol_id):
    paragraphs, _ = write_methods([MethodStep(protocol_id, "Some step")])
    (text,) = paragraphs
    assert re.fullmatch(r"[A-Z].*\.", text)
    assert "None" not in text
    assert not re.search(r"\s[,.;)]|\.\.|\(\)|\{|\}|  ", text)


def test_unknown_protocol_is_told_by_its_changes():
    step = MethodStep(
        "volumes.paint_blue",
        "Paint blue",
        changed={"depth_angst": 2.0, "file": "x"},
        items_out={"volumes": ("volumes", 1)},
    )
    (text,), _ = write_methods([step])
    assert "“Paint blue” (volumes.paint_blue) was run with depth 2 Å, giving 1 volume." in text


def test_stages_are_paragraphs_in_order_of_the_work():
    steps = [MethodStep(p, p) for p in ("volumes.fsc", "particles.extract", "sets.join_all")]
    steps.append(CTF)
    paragraphs, _ = write_methods(steps)
    assert len(paragraphs) == 4
    assert "transfer function" in paragraphs[0]
    assert "sets.join_all" in paragraphs[3]


def test_no_steps_make_no_paragraphs():
    assert write_methods([]) == ([], [])


def test_what_became_of_particles_at_borders_is_told():
    numbers = {"box_px": 160, "n_at_border_dropped": 3, "n_at_border_filled": 1}
    step = MethodStep(
        "particles.extract",
        "Extract particles",
        params={"must_be_inside": "particle", "invert": True},
        numbers=numbers,
        items_out={"particles": ("particles", 12)},
    )
    (text,), _ = write_methods([step])
    assert "12 particles were cut out in boxes of 160 px, inverted" in text
    assert "Left out were 3 particles that crossed the micrograph's border." in text
    assert "The missing rim of 1 box was filled with noise" in text


@pytest.mark.parametrize(("chosen", "is_told"), [("uniform", False), ("non_uniform", True)])
def test_a_filter_for_every_place_is_told_and_cited_where_it_was_used(chosen, is_told):
    spec = load_registry().protocols["particles.refine_3d"]
    step = MethodStep(
        spec.id, spec.label, params={"regularisation": chosen}, citations=spec.citations
    )
    (text,), references = write_methods([step])
    assert ("filtered place by place" in text) == is_told
    named = [r.text + r.doi for r in references]
    assert any("s41592-020-00990-8" in name for name in named) == is_told
    assert len(references) == (3 if is_told else 2)
