"""The state machine: named cases, and random orders of events that keep its invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verglas.core.errors import EngineError
from verglas.engine import events as ev
from verglas.engine.state import MAX_ATTEMPTS, ChunkStatus, JobState
from verglas.project.record import JobStatus

KEYS = ("a", "b", "c", "d")


def running(window=2, chunks=KEYS, done=()):
    state = JobState()
    assert state.handle(ev.Queued()) == []
    assert state.handle(ev.Started()) == []
    return state, state.handle(ev.StepOpened("step", chunks, done, window))


def test_only_absent_chunks_are_submitted_and_only_as_many_as_fit():
    state, instructions = running(window=2, done=("a",))
    assert instructions == [ev.Submit("step", "b", 1), ev.Submit("step", "c", 1)]
    assert state.handle(ev.ChunkDone("step", "b")) == [ev.Submit("step", "d", 1)]


def test_step_closes_when_the_last_chunk_is_done():
    state, _ = running(window=4)
    for key in KEYS[:3]:
        assert state.handle(ev.ChunkDone("step", key)) == []
    assert state.handle(ev.ChunkDone("step", "d")) == [ev.CloseStep("step", ())]
    assert state.handle(ev.Returned()) == [ev.Finish("done")]


def test_step_whose_chunks_are_all_there_closes_at_once():
    _, instructions = running(done=KEYS)
    assert instructions == [ev.CloseStep("step", ())]


def test_empty_step_closes_at_once():
    _, instructions = running(chunks=())
    assert instructions == [ev.CloseStep("step", ())]


def test_failed_chunk_is_named_and_the_others_go_on():
    state, _ = running(window=1, chunks=("a", "b"))
    assert state.handle(ev.ChunkFailed("step", "a", "bad image")) == [ev.Submit("step", "b", 1)]
    closed = state.handle(ev.ChunkDone("step", "b"))
    assert closed == [ev.CloseStep("step", (("a", "bad image"),))]


def test_lost_chunk_is_tried_three_times_and_then_failed():
    state, _ = running(window=1, chunks=("a",))
    for attempt in range(1, MAX_ATTEMPTS):
        again = state.handle(ev.ChunkLost("step", "a", "worker died"))
        assert again == [ev.Submit("step", "a", attempt + 1)]
    closed = state.handle(ev.ChunkLost("step", "a", "worker died"))
    assert closed == [ev.CloseStep("step", (("a", "lost 3 times, last: worker died"),))]


def test_chunk_that_was_lost_before_it_began_keeps_its_attempts():
    state, _ = running(window=1, chunks=("a",))
    for _ in range(10):
        state.handle(ev.ChunkLost("step", "a", "worker died", started=False))
    assert state.steps["step"].chunks["a"].attempts == 0


def test_late_result_of_a_lost_chunk_counts():
    state, _ = running(window=1, chunks=("a", "b"))
    state.handle(ev.ChunkLost("step", "a", "worker died"))
    state.handle(ev.ChunkDone("step", "a"))
    assert state.handle(ev.ChunkDone("step", "b")) == [ev.CloseStep("step", ())]


def test_cancel_withdraws_what_is_out_and_ends_the_job():
    state, _ = running(window=2)
    instructions = state.handle(ev.CancelRequested())
    assert instructions == [
        ev.Withdraw((("step", "a"), ("step", "b"))),
        ev.Finish("cancelled"),
    ]
    assert state.handle(ev.ChunkDone("step", "a")) == []
    assert state.handle(ev.Queued()) == []
    assert state.status is JobStatus.QUEUED


def test_asking_job_is_queued_again_by_its_answer():
    state, _ = running(done=KEYS)
    assert state.handle(ev.Asked("picks")) == [ev.Finish("asking")]
    state.handle(ev.Queued())
    state.handle(ev.Started())
    assert state.status is JobStatus.RUNNING


@pytest.mark.parametrize(
    "event", [ev.Started(), ev.Returned(), ev.Raised("x"), ev.StepOpened("s", (), (), 1)]
)
def test_event_that_cannot_happen_is_refused(event):
    state = JobState()
    with pytest.raises(EngineError):
        state.handle(event)
    assert state.status is JobStatus.DRAFT


def test_ten_thousand_chunks_take_no_quadratic_time():
    keys = tuple(str(number) for number in range(10_000))
    state, instructions = running(window=8, chunks=keys)
    while instructions and isinstance(instructions[0], ev.Submit):
        submitted = instructions
        instructions = []
        for order in submitted:
            instructions += state.handle(ev.ChunkDone("step", order.key))
    assert instructions == [ev.CloseStep("step", ())]


_keys = st.sampled_from(KEYS)
_events = st.one_of(
    st.just(ev.Queued()),
    st.just(ev.Started()),
    st.just(ev.Returned()),
    st.just(ev.CancelRequested()),
    st.just(ev.Asked("q")),
    st.builds(ev.Raised, st.just("e")),
    st.builds(
        ev.StepOpened,
        st.sampled_from(("s", "t")),
        st.just(KEYS),
        st.lists(_keys, unique=True).map(tuple),
        st.integers(1, 3),
    ),
    *(
        st.builds(make, st.sampled_from(("s", "t")), _keys)
        for make in (ev.ChunkSubmitted, ev.ChunkStarted, ev.ChunkDone)
    ),
    st.builds(ev.ChunkFailed, st.sampled_from(("s", "t")), _keys, st.just("bad")),
    st.builds(ev.ChunkLost, st.sampled_from(("s", "t")), _keys, st.just("gone"), st.booleans()),
)


def check_invariants(state):
    assert not state.steps or state.status is JobStatus.RUNNING
    for step in state.steps.values():
        statuses = [chunk.status for chunk in step.chunks.values()]
        assert step.n_out == sum(status.is_out for status in statuses) <= step.window
        assert step.n_open == sum(not status.is_final for status in statuses) > 0
        idle = {ChunkStatus.WAITING, ChunkStatus.LOST}
        assert step.n_out == step.window or not idle & set(statuses), "a free place was not used"
        for chunk in step.chunks.values():
            assert chunk.attempts < MAX_ATTEMPTS or chunk.status.is_final
            assert (chunk.status is ChunkStatus.FAILED) == bool(chunk.error)


@given(st.lists(_events, max_size=60))
def test_random_orders_of_events_keep_the_invariants(events):
    state = JobState()
    for event in [ev.Queued(), ev.Started(), *events]:
        before = repr(state)
        try:
            state.handle(event)
        except EngineError:
            assert repr(state) == before, "a refused event changed the state"
        check_invariants(state)


@given(st.lists(st.tuples(st.sampled_from(("done", "lost", "failed")), _keys), max_size=40))
def test_every_step_ends_once_its_chunks_do(outcomes):
    state, pending = running(window=2)
    out = [order.key for order in pending]
    closed = 0
    for outcome, key in [*outcomes, *(("done", key) for key in KEYS)]:
        event = {
            "done": ev.ChunkDone("step", key),
            "lost": ev.ChunkLost("step", key, "gone"),
            "failed": ev.ChunkFailed("step", key, "bad"),
        }[outcome]
        for instruction in state.handle(event):
            if isinstance(instruction, ev.Submit):
                out.append(instruction.key)
            else:
                closed += isinstance(instruction, ev.CloseStep)
    assert closed == 1
    assert set(out) <= set(KEYS)
    assert all(out.count(key) <= MAX_ATTEMPTS for key in KEYS)
