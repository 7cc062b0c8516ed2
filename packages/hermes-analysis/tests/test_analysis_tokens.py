"""Inter-token latency from stretches of steps, against the times of every token."""

import numpy as np
import pytest
from hermes_analysis.metrics import summarise
from hermes_analysis.metrics.steps import StepIndex
from hermes_analysis.metrics.tokens import token_gaps
from hermes_analysis.testing import make_record
from hypothesis import given
from hypothesis import strategies as st

MS = 1_000_000
MS_FS = 10**12
FINISHED = 1


def job(request_id, first_step, last_step, output_tokens, **other):
    return {
        "request_id": request_id,
        "first_step": first_step,
        "last_step": last_step,
        "output_tokens": output_tokens,
        **other,
    }


def request(request_id, **other):
    return {"request_id": request_id, "first_token_ns": 1, "end_ns": 2, **other}


def itl(run):
    return summarise(run).total.itl_s


def test_one_stretch_by_hand():
    # First token at 10 ms; then four steps of 10.0, 10.1, 10.2, 10.3 ms.
    run = make_record(
        requests=[request(0, output_tokens=5)],
        stage_jobs=[job(0, 0, 4, 5)],
        steps=[
            {"first_step": 0, "t0_fs": 10 * MS_FS, "prefill_seqs": 1},
            {"first_step": 1, "steps": 4, "start_ns": 10 * MS, "t0_fs": 10 * MS_FS, "slope_fs": MS_FS // 10}
            | {"decode_seqs": 1},
        ],
        end_ns=51 * MS,
    )
    got = itl(run)
    assert got.count == 4
    assert got.mean == pytest.approx(10.15e-3)
    assert got.p50 == pytest.approx(10.15e-3)
    assert got.minimum == pytest.approx(10.0e-3)
    assert got.maximum == pytest.approx(10.3e-3)


def test_a_step_counts_for_every_sequence_that_decodes_in_it():
    # Request 1 joins with the prefill of step 2 (30 ms), for which request 0 waits: its gap is 30 + 10 ms.
    run = make_record(
        requests=[request(0, output_tokens=4), request(1, output_tokens=3)],
        stage_jobs=[job(0, 0, 4, 4), job(1, 2, 4, 3)],
        steps=[
            {"first_step": 0, "t0_fs": 20 * MS_FS, "prefill_seqs": 1},
            {"first_step": 1, "start_ns": 20 * MS, "t0_fs": 10 * MS_FS, "decode_seqs": 1},
            {"first_step": 2, "start_ns": 30 * MS, "t0_fs": 30 * MS_FS, "prefill_seqs": 1},
            {"first_step": 3, "steps": 2, "start_ns": 60 * MS, "t0_fs": 10 * MS_FS, "decode_seqs": 2},
        ],
        end_ns=80 * MS,
    )
    got = itl(run)  # request 0: 10, 40, 10; request 1: 10, 10
    assert got.count == 5
    assert got.mean == pytest.approx(16e-3)
    assert got.p50 == pytest.approx(10e-3)
    assert got.maximum == pytest.approx(40e-3)


def test_handover_between_clients_is_a_gap():
    run = make_record(
        requests=[request(0, output_tokens=3)],
        clients=[{"name": "prefill/0"}, {"name": "decode/0"}],
        stage_sets=["prefill", "decode"],
        stage_jobs=[
            job(0, 0, 0, 1, stage_set=0, first_token_ns=20 * MS, end_ns=20 * MS),
            job(0, 0, 1, 2, job=1, stage_set=1, client=1, first_token_ns=55 * MS, end_ns=65 * MS),
        ],
        steps=[
            {"first_step": 0, "t0_fs": 20 * MS_FS, "prefill_seqs": 1},
            {"client": 1, "first_step": 0, "steps": 2, "start_ns": 45 * MS, "t0_fs": 10 * MS_FS, "decode_seqs": 1},
        ],
        end_ns=65 * MS,
    )
    got = itl(run)  # 20 -> 55 ms over the network, 55 -> 65 ms
    assert got.count == 2
    assert got.maximum == pytest.approx(35e-3)
    assert got.minimum == pytest.approx(10e-3)


def test_a_handover_from_a_job_without_an_end_is_no_gap():
    requests = [request(0, output_tokens=1)]
    jobs = [
        job(0, 0, 0, 1, job=0, stage_set=0, first_token_ns=MS, end_ns=-1),
        job(0, 0, 0, 1, job=1, stage_set=1, client=1, first_token_ns=5 * MS, end_ns=6 * MS, after=0),
    ]
    clients = [{"name": "p/0"}, {"name": "d/0"}]
    steps = [{"client": client, "first_step": 0, "t0_fs": MS_FS, "decode_seqs": 1} for client in (0, 1)]
    record = {"requests": requests, "steps": steps, "clients": clients, "stage_sets": ["prefill", "decode"]}
    run = make_record(stage_jobs=jobs, **record)
    assert not len(token_gaps(run, StepIndex.of(run.steps)).handover_jobs)
    jobs[0] |= {"end_ns": 2 * MS}
    run = make_record(stage_jobs=jobs, **record)
    assert token_gaps(run, StepIndex.of(run.steps)).handover.start.tolist() == pytest.approx([3e-3])


def test_a_job_that_was_left_out_of_some_steps_keeps_number_and_sum_of_its_gaps():
    # Seven steps of 10 ms and four tokens: whatever it missed, its three gaps last 60 ms together.
    run = make_record(
        requests=[request(0, output_tokens=4)],
        stage_jobs=[job(0, 0, 6, 4)],
        steps=[{"first_step": 0, "steps": 7, "t0_fs": 10 * MS_FS, "decode_seqs": 1}],
        end_ns=70 * MS,
    )
    got = itl(run)
    assert got.count == 3
    assert got.mean * got.count == pytest.approx(60e-3)


def test_several_tokens_of_a_step_follow_after_no_time():
    run = make_record(
        requests=[request(0, output_tokens=7)],
        stage_jobs=[job(0, 0, 2, 7)],
        steps=[
            {"first_step": 0, "t0_fs": 20 * MS_FS, "prefill_seqs": 1},
            {"first_step": 1, "steps": 2, "start_ns": 20 * MS, "t0_fs": 12 * MS_FS, "decode_seqs": 1},
        ],
        end_ns=44 * MS,
    )
    got = itl(run)  # two gaps of 12 ms, four of 0
    assert (got.count, got.p50, got.minimum) == (6, 0.0, 0.0)
    assert got.mean == pytest.approx(4e-3)
    assert got.maximum == pytest.approx(12e-3)


def test_preempted_job_keeps_number_and_sum_of_its_gaps():
    # Tokens at 20, 30 ms; preempted; another decodes for 3 steps; resumed by the prefill of step 5 (50 ms).
    run = make_record(
        requests=[request(0, output_tokens=3), request(1, output_tokens=5)],
        stage_jobs=[job(0, 0, 5, 3, preemptions=1), job(1, 0, 4, 5)],
        steps=[
            {"first_step": 0, "t0_fs": 20 * MS_FS, "prefill_seqs": 2},
            {"first_step": 1, "start_ns": 20 * MS, "t0_fs": 10 * MS_FS, "decode_seqs": 2},
            {"first_step": 2, "steps": 3, "start_ns": 30 * MS, "t0_fs": 10 * MS_FS, "decode_seqs": 1},
            {"first_step": 5, "start_ns": 60 * MS, "t0_fs": 50 * MS_FS, "prefill_seqs": 1},
        ],
        end_ns=110 * MS,
    )
    summary = summarise(run)
    got = summary.total.itl_s
    assert got.count == 6
    # Job 0: 110 - 20 = 90 ms over two gaps; job 1: four gaps of 10 ms.
    assert got.mean == pytest.approx((90e-3 + 40e-3) / 6)
    assert summary.itl_estimated_share == pytest.approx(2 / 6)
    assert any("preempted" in warning for warning in summary.warnings)


def test_preempted_job_without_others_is_exact():
    run = make_record(
        requests=[request(0, output_tokens=3)],
        stage_jobs=[job(0, 0, 2, 3, preemptions=1)],
        steps=[
            {"first_step": 0, "t0_fs": 20 * MS_FS, "prefill_seqs": 1},
            {"first_step": 1, "start_ns": 20 * MS, "t0_fs": 10 * MS_FS, "decode_seqs": 1},
            {"first_step": 2, "start_ns": 30 * MS, "t0_fs": 50 * MS_FS, "prefill_seqs": 1},
        ],
        end_ns=80 * MS,
    )
    got = itl(run)
    assert (got.count, got.minimum, got.maximum) == (2, pytest.approx(10e-3), pytest.approx(50e-3))


def test_jobs_whose_steps_are_lost_are_counted_not_guessed():
    run = make_record(
        requests=[request(0, output_tokens=3), request(1, output_tokens=2)],
        stage_jobs=[job(0, 0, 2, 3), job(1, 0, 1, 2)],
        steps=[
            {"first_step": 0, "t0_fs": 20 * MS_FS, "prefill_seqs": 1},
            {"first_step": 1, "start_ns": 20 * MS, "t0_fs": 10 * MS_FS, "decode_seqs": 1},
        ],
        end_ns=80 * MS,
    )
    summary = summarise(run)
    assert summary.total.itl_s.count == 1
    assert any(warning.startswith("1 stage jobs are left out of ITL") for warning in summary.warnings)


@st.composite
def histories(draw):
    """Stretches of two clients, and jobs anywhere in them; with the gaps between all their tokens."""
    steps, ends, decoding = [], {0: [], 1: []}, {0: [], 1: []}
    for client in (0, 1):
        at = 0
        for _ in range(draw(st.integers(2, 8))):
            at += draw(st.sampled_from([0, 0, 3])) * MS_FS
            count, seqs = draw(st.integers(1, 6)), draw(st.integers(0, 2))
            t0, slope = draw(st.integers(1, 9)) * MS_FS, draw(st.sampled_from([0, 10**8, 10**11, -(10**8)]))
            steps.append(
                {"client": client, "first_step": len(ends[client]), "steps": count, "start_ns": at // 10**6}
                | {"start_rem_fs": at % 10**6, "t0_fs": t0, "slope_fs": slope, "decode_seqs": seqs}
            )
            for k in range(count):
                at += t0 + slope * k
                ends[client].append(at)
                decoding[client].append(seqs > 0)
    jobs, gaps = [], []
    for number in range(draw(st.integers(1, 8))):
        client = draw(st.integers(0, 1))
        first = draw(st.integers(0, len(ends[client]) - 1))
        tokens = [first, *(s for s in range(first + 1, len(ends[client])) if decoding[client][s])]
        tokens = tokens[: draw(st.integers(1, len(tokens)))]
        times = [ends[client][s] for s in tokens]
        gaps.append(np.diff(times) * 1e-15)
        jobs.append(job(number, first, tokens[-1], len(tokens), client=client))
    order = draw(st.permutations(range(len(steps))))
    return [steps[i] for i in order], jobs, gaps


@given(histories(), st.integers(0, 255))
def test_gaps_are_those_of_the_tokens_one_by_one(history, chosen_bits):
    steps, jobs, gaps = history
    run = make_record(
        requests=[request(j["request_id"]) for j in jobs],
        stage_jobs=jobs,
        steps=steps,
        clients=[{"name": "a"}, {"name": "b"}],
        end_ns=1,
    )
    chosen = np.array([bool(chosen_bits >> i & 1) for i in range(len(jobs))])
    tokens = token_gaps(run, StepIndex.of(run.steps))
    got = tokens.distribution(chosen)
    expected = np.concatenate([np.empty(0), *(g for g, c in zip(gaps, chosen, strict=True) if c)])
    assert tokens.jobs_without_steps == 0
    assert tokens.estimated_share(chosen) == 0
    assert got.count == len(expected)
    if len(expected):
        assert got.mean == pytest.approx(expected.mean(), rel=1e-9)
        assert (got.p50, got.p99) == pytest.approx(tuple(np.quantile(expected, [0.5, 0.99])), rel=1e-9)
        assert (got.minimum, got.maximum) == pytest.approx((expected.min(), expected.max()), rel=1e-9)
