"""A person's picks in a few micrographs are learnt from; the rest is suggested like them."""

import numpy as np
import pytest

from tests.algorithms.fields import n_matched
from tests.protocols.fields_project import DIAMETER, PIXEL, make_fields, micrographs_of
from tests.protocols.picking.test_consensus import picks_of
from verglas.core.errors import UserError
from verglas.protocols.picking.pick_manual import Inputs, ManualParams, run
from verglas.sdk.testing import LocalContext, check_protocol

N = 6
PARAMS = ManualParams(diameter_angst=DIAMETER, n_first=2)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("manual")
    return root, make_fields(root, N)


def by_hand(root, truth, chosen):
    """What a person gives back: the true places of some micrographs."""
    return picks_of(root, [p if i in chosen else p[:0] for i, p in enumerate(truth)])


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.pick_manual"


def test_the_rest_is_suggested_after_two_micrographs(project):
    """28 picks by hand; F1 of the other four micrographs at least 0.9."""
    root, truth = project
    asked = []

    def answer(kind, draft):
        asked.append((kind.id, draft.rows()))
        return by_hand(root, truth, {0, 5})

    ctx = LocalContext(root, job="0001-hand", answer=answer)
    outputs = run(ctx, PARAMS, Inputs(micrographs=micrographs_of(root, N)))
    kind, draft = asked[0]
    assert (kind, len(asked)) == ("coordinates", 1)
    assert draft["micrograph_id"].unique().sort().to_list() == [0, 5]
    rows, hits = outputs.coordinates.rows(), 0
    for i in range(1, 5):
        own = rows.filter(micrograph_id=i).select("coord_x_angst", "coord_y_angst").to_numpy()
        hits += n_matched(own / PIXEL, truth[i], 0.3 * DIAMETER / PIXEL)
    n_found = rows.filter(~rows["micrograph_id"].is_in([0, 5])).height
    assert 2 * hits / (n_found + sum(len(truth[i]) for i in range(1, 5))) >= 0.9
    assert rows.filter(micrograph_id=0).height == len(truth[0])
    assert ctx.metrics["n_by_hand"] == len(truth[0]) + len(truth[5])


def test_review_asks_once_more_and_has_the_last_word(project):
    root, truth = project
    answers = [by_hand(root, truth, {0, 1}), by_hand(root, truth, {2})]
    ctx = LocalContext(root, job="0002-review", answer=lambda kind, draft: answers.pop(0))
    params = PARAMS.model_copy(update={"review": True})
    outputs = run(ctx, params, Inputs(micrographs=micrographs_of(root, N)))
    assert not answers
    assert outputs.coordinates.rows()["micrograph_id"].unique().to_list() == [2]


def test_three_picks_are_too_few(project):
    root, truth = project
    few = picks_of(root, [truth[0][:3]])
    ctx = LocalContext(root, job="0003-few", answer=lambda kind, draft: few)
    with pytest.raises(UserError, match="3 picks are too few to learn from: expected at least 15"):
        run(ctx, PARAMS, Inputs(micrographs=micrographs_of(root, N)))


def test_picks_outside_of_the_image_are_named(project):
    root, truth = project
    wild = picks_of(root, [np.concatenate([truth[0], truth[1]]) + 5000.0])
    ctx = LocalContext(root, job="0004-wild", answer=lambda kind, draft: wild)
    with pytest.raises(UserError, match="0 of 28 picks lie inside of a micrograph"):
        run(ctx, PARAMS, Inputs(micrographs=micrographs_of(root, N)))


def test_the_job_parks_and_goes_on_with_a_file(project, tmp_path):
    """Through the API: asking, a CSV of pixels as answer, done."""
    from verglas.api.answer import answer_with_file
    from verglas.api.project import Project
    from verglas.project.record import JobStatus

    _, truth = project
    source = tmp_path / "source"
    make_fields(source, 3)
    picks = tmp_path / "picks.csv"
    lines = ["micrograph,x,y"]
    for i in (0, 1):
        lines += [f"field_{i:02d},{x:.2f},{y:.2f}" for x, y in truth[i]]
    picks.write_text("\n".join(lines))
    with Project.create(tmp_path / "project") as opened:
        optics = {"pixel_size_angst": PIXEL, "voltage_kv": 300.0}
        taken = opened.run(
            "micrographs.import", files=[str(source / "data/*.mrc")], placement=None, **optics
        )
        job = opened.run(
            "micrographs.pick_manual",
            micrographs=taken.output(),
            diameter_angst=DIAMETER,
            n_first=1,
        )
        assert job.status is JobStatus.ASKING
        job = answer_with_file(opened, job.number, picks)
        assert job.status is JobStatus.DONE
        rows = job.output("coordinates").rows()
    assert rows["micrograph_id"].n_unique() == 3
