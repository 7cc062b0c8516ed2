"""Requests that wait for the end of another one: nobody is lost, in whatever order things come to be known."""

from dataclasses import replace

import pytest
from hermes_core.api.errors import InputError
from hermes_core.serving.llm.settings import AdmissionSettings, EngineSettings
from hermes_core.testing import AffineStepModel, ScriptedSource, simulate, small_plan

MS = 1_000_000
STEPS = AffineStepModel(base_fs=MS * 1_000_000, per_seq_fs=0, per_context_fs=0, per_prompt_token_fs=0, per_pair2_fs=0)
ENGINE = EngineSettings(kv_blocks=1001, asynchronous_scheduling=False)


def arrivals(rows, after, think=0, *, rows_a_batch=1000, engine=ENGINE):
    columns = {"after_request": after, "think_ns": [think] * len(rows)}
    source = ScriptedSource(rows, columns, rows_a_batch=rows_a_batch)
    table = simulate(small_plan(engine), source, STEPS).table("requests")
    return dict(zip(table["request_id"].tolist(), table["arrival_ns"].tolist(), strict=True))


def test_who_is_read_after_the_end_of_the_one_it_waits_for_comes_all_the_same():
    """Request 0 has ended at 2 ms, long before request 2, which waits for it, is read at 50 ms."""
    rows = [(0, 4, 2), (50 * MS, 4, 2), (60 * MS, 4, 2)]
    assert arrivals(rows, [-1, -1, 0]) == {0: 0, 1: 50 * MS, 2: 50 * MS}
    assert arrivals(rows, [-1, -1, 0], 70 * MS) == {0: 0, 1: 50 * MS, 2: 72 * MS}


@pytest.mark.parametrize("rows_a_batch", [1, 2, 3, 1000])
def test_several_may_wait_for_the_same_one_and_be_read_before_and_after_its_end(rows_a_batch):
    rows = [(0, 4, 2), (0, 4, 2), (50 * MS, 4, 1), (50 * MS, 4, 1), (90 * MS, 4, 1), (90 * MS, 4, 1)]
    found = arrivals(rows, [-1, 0, -1, 0, -1, 0], rows_a_batch=rows_a_batch)
    assert found == {0: 0, 1: 2 * MS, 2: 50 * MS, 3: 50 * MS, 4: 90 * MS, 5: 90 * MS}


def test_who_is_shed_at_the_door_lets_the_next_of_a_closed_loop_come():
    """Two users at once at a door that lets one in: the second is shed before anyone who waits for it is read."""
    engine = replace(ENGINE, max_num_seqs=1, admission=AdmissionSettings("token_bucket", rate_per_s=1e-3, burst=1))
    found = arrivals([(0, 4, 2), (0, 4, 2), (0, 4, 2), (0, 4, 2)], [-1, -1, 0, 1], 5 * MS, engine=engine)
    assert found == {0: 0, 1: 0, 2: 7 * MS, 3: 5 * MS}


def test_the_first_batch_with_such_requests_may_come_late():
    class Late(ScriptedSource):
        def batches(self):
            for batch in super().batches():
                yield replace(batch, after_request=None) if batch.first_request_id < 2 else batch

    source = Late([(0, 4, 2), (5 * MS, 4, 9), (7 * MS, 4, 2), (7 * MS, 4, 2)], {"after_request": [-1, -1, 0, 1]})
    source.rows_a_batch = 2
    table = simulate(small_plan(ENGINE), source, STEPS).table("requests")
    found = dict(zip(table["request_id"].tolist(), table["arrival_ns"].tolist(), strict=True))
    # When 0 had ended is not known any more: what is known is that it had by the time this was asked.
    assert found == {0: 0, 1: 5 * MS, 2: 5 * MS, 3: 14 * MS}


@pytest.mark.parametrize("after", [1, 7])
def test_nobody_waits_for_one_who_does_not_come_before(after):
    with pytest.raises(InputError, match=f"request 1 waits for request {after}") as refused:
        arrivals([(0, 4, 2), (0, 4, 2)], [-1, after])
    assert "earlier row" in refused.value.remedy
