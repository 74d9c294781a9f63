import pytest

from tests.project.test_store import a_record, an_output
from verglas.project.layout import create_project
from verglas.project.provenance import ancestors, descendants, describe_change, graph, stale_jobs
from verglas.project.record import Input, Revision
from verglas.project.store import Store


@pytest.fixture
def store(tmp_path):
    """j1 -> j2 -> j4 and j1 -> j3, data sets numbered as the jobs that made them."""
    store = Store(create_project(tmp_path / "p"))
    with store.writing():
        store.save(a_record(1, outputs=(1,), parameters={"n": 3}))
        store.save(a_record(2, inputs=(1,), outputs=(2,)))
        store.save(a_record(3, inputs=(1,), outputs=(3,)))
        store.save(a_record(4, inputs=(2,), outputs=(4,)))
    yield store
    store.close()


def rerun_first(store):
    record = store.job(1)
    former = Revision(number=1, parameters=record.parameters, outputs=record.outputs)
    with store.writing():
        store.save(
            record.replace(
                revision=2,
                former=(former,),
                parameters={"n": 5},
                outputs=(an_output(5, 1, revision=2),),
            )
        )


def test_ancestors_and_descendants_follow_the_links(store):
    assert ancestors(store.connection, 4) == [1, 2]
    assert descendants(store.connection, 1) == [2, 3, 4]
    assert ancestors(store.connection, 1) == descendants(store.connection, 4) == []


def test_nothing_is_stale_at_first(store):
    assert stale_jobs(store.connection) == {}


def test_rerun_makes_all_descendants_stale_and_says_why(store):
    rerun_first(store)
    stale = stale_jobs(store.connection)
    assert list(stale) == [2, 3, 4]
    assert stale[2][0].text == "input numbers is d1 of j1, which was run again: n 3 -> 5"
    assert [reason.text for reason in stale[4]] == ["j2 above it is out of date"]


def test_job_run_again_on_the_new_data_is_up_to_date(store):
    rerun_first(store)
    record = store.job(3)
    with store.writing():
        store.save(record.replace(inputs=(Input(port="numbers", dataset=5),)))
    assert list(stale_jobs(store.connection)) == [2, 4]


def test_staleness_survives_a_rebuilt_index(store):
    rerun_first(store)
    before = stale_jobs(store.connection)
    store.reindex()
    assert stale_jobs(store.connection) == before


def test_output_that_came_back_unchanged_makes_nothing_stale(store):
    record = store.job(1)
    former = Revision(number=1, parameters=record.parameters, outputs=record.outputs)
    with store.writing():
        store.save(record.replace(revision=2, former=(former,)))
    assert stale_jobs(store.connection) == {}


def test_graph_has_every_job_and_link(store):
    whole = graph(store.connection)
    assert [job.number for job in whole.jobs] == [1, 2, 3, 4]
    assert [(edge.source, edge.target) for edge in whole.edges] == [(1, 2), (1, 3), (2, 4)]


def test_descendants_of_earlier_runs_are_still_descendants(store):
    rerun_first(store)
    assert descendants(store.connection, 1) == [2, 3, 4]


def test_change_of_an_input_is_described():
    old = ({"n": 1}, [Input(port="a", dataset=1)])
    new = ({"n": 1}, [Input(port="a", dataset=2), Input(port="a", dataset=3)])
    assert describe_change(old, new) == "a d1 -> d2+d3"
