"""Pipelines as graphs: what a lone request takes, what is conserved, and that jumping over steps changes nothing."""

import gc
from dataclasses import replace

import numpy as np
import pytest
from hermes_core.api.errors import InputError
from hermes_core.serving.llm.pool import LlmJob
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.serving.pipelines.flow import Flow
from hermes_core.serving.pipelines.luck import draw_of, unit
from hermes_core.serving.pipelines.nodes import Branch, Choice, Loop, Parallel, Stage, Stop
from hermes_core.serving.plan import KvTransferPlan
from hermes_core.serving.request import Status
from hermes_core.testing import (
    AffineStepModel,
    LinearStageModel,
    ScriptedSource,
    service_pool,
    simulate,
    small_plan,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEPS = AffineStepModel(base_fs=3_000_000_000_000, per_seq_fs=0, per_context_fs=0, per_pair2_fs=0)
"""A step lasts 3 ms, and 30 us for each prompt token."""
STAGES = LinearStageModel()
"""A batch lasts 2 ms, 0.1 ms a job, and 1 us a token."""
NO_JOB = 65535


def fixed(value):
    return {"kind": "fixed", "tokens": value}


def time_of(value):
    return {"kind": "fixed", "value": value}


def engine(**changes):
    return EngineSettings(kv_blocks=4001, asynchronous_scheduling=False, **changes)


def plan_of(nodes, *pools, stages=("prefill", "reason", "decode"), exact=False, clients=1, **changes):
    plan = small_plan(engine(**changes), clients=clients, stages=stages)
    return replace(plan, pools=(*plan.pools, *pools), pipelines={"default": tuple(nodes)}, exact=exact)


def one(prompt=100, output=5, luck=7):
    return ScriptedSource([(0, prompt, output)], columns={"luck": [luck]})


def llm_ns(prompt, output):
    """A prompt in one chunk, then a step for each further token."""
    return 3_000_000 * output + 30_000 * prompt


def service_ns(tokens):
    return 2_000_000 + 100_000 + 1_000 * tokens


def rows(ran):
    table = ran.table("stage_jobs")
    names = list(ran.outcome.manifest.stage_sets)
    order = np.argsort(table["job"], kind="stable")
    return [
        {key: int(column[i]) for key, column in table.items()} | {"what": names[table["stage_set"][i]]} for i in order
    ]


def end_to_end(ran):
    table = ran.table("requests")
    assert table["status"].tolist() == [Status.FINISHED]
    return int(table["end_ns"][0] - table["arrival_ns"][0])


# --- the zero-load law ------------------------------------------------------------------------------------------------


def test_a_lone_request_takes_the_sum_of_its_stages():
    nodes = [
        "preprocess",
        "embed",
        Stage("retrieve", options={"k": 20}),
        Stage("rerank", options={"documents": 20, "keep": 5, "tokens_per_document": fixed(64)}),
        "prefill",
        "decode",
        "postprocess",
    ]
    cpu = service_pool("cpu", "preprocess", "postprocess", "retrieve")
    gpu = service_pool("gpu", "embed", "rerank")
    ran = simulate(plan_of(nodes, cpu, gpu), one(), STEPS)
    expected = (
        service_ns(100) + service_ns(100) + service_ns(20) + service_ns(20 * 164)
        + llm_ns(100 + 5 * 64, 5) + service_ns(5)
    )  # fmt: skip
    assert end_to_end(ran) == expected
    jobs = rows(ran)
    assert [job["what"] for job in jobs] == [
        "preprocess", "embed", "retrieve", "rerank", "prefill+decode", "postprocess",
    ]  # fmt: skip
    assert [job["after"] for job in jobs] == [NO_JOB, 0, 1, 2, 3, 4]
    request = ran.table("requests")
    assert request["prompt_tokens"][0] == 100, "what the user has sent, not what stages have added"
    assert request["output_tokens"][0] == 5
    assert jobs[4]["prompt_tokens"] == 420


def test_a_lone_request_takes_the_longest_of_parallel_parts():
    nodes = [Parallel((("embed",), (Stage("retrieve", options={"k": 3000}),))), "prefill", "decode"]
    ran = simulate(plan_of(nodes, service_pool("cpu", "retrieve"), service_pool("gpu", "embed")), one(), STEPS)
    assert end_to_end(ran) == service_ns(3000) + llm_ns(100, 5)
    jobs = rows(ran)
    assert [job["after"] for job in jobs] == [NO_JOB, NO_JOB, 1], "the search was what the prompt waited for"


def test_an_agent_finds_its_context_again():
    tool = Stage("tool", options={"latency": time_of(40_000_000), "result_tokens": fixed(33)})
    nodes = [Loop(("prefill", "decode", tool), most=3), "prefill", "decode"]
    ran = simulate(plan_of(nodes), one(prompt=100, output=20), STEPS)
    jobs = [job for job in rows(ran) if job["what"] != "tool"]
    assert [job["prompt_tokens"] for job in jobs] == [100, 153, 206, 259]
    # All but the newest block of what was computed is there: 119 tokens have KV, of 16 a block.
    assert [job["cached_tokens"] for job in jobs] == [0, 112, 160, 224]
    computed = [job["prompt_tokens"] - job["cached_tokens"] for job in jobs]
    assert end_to_end(ran) == sum(llm_ns(new, 20) for new in computed) + 3 * 40_000_000
    assert ran.table("requests")["prompt_tokens"].tolist() == [100]


def test_without_a_prefix_cache_an_agent_computes_it_all_again():
    tool = Stage("tool", options={"latency": time_of(1), "result_tokens": fixed(33)})
    nodes = [Loop(("prefill", "decode", tool), most=3)]
    ran = simulate(plan_of(nodes, prefix_caching=False), one(prompt=100, output=20), STEPS)
    assert end_to_end(ran) == sum(llm_ns(prompt, 20) for prompt in (100, 153, 206)) + 3


def test_best_of_n_shares_the_prompt():
    nodes = ["prefill", Stage("reason", options={"tokens": fixed(50), "paths": 8}), "decode"]
    ran = simulate(plan_of(nodes), one(prompt=160, output=10), STEPS)
    jobs = rows(ran)
    thoughts = [job for job in jobs if job["what"] == "prefill+reason"]
    assert len(thoughts) == 8
    assert sorted(job["cached_tokens"] for job in thoughts) == [0, *[144] * 7]
    # One prompt and the last block of seven others in one step; 49 further steps.
    thinking = 50 * 3_000_000 + 30_000 * (160 + 7 * 16)
    answer = jobs[-1]
    assert (answer["what"], answer["prompt_tokens"]) == ("decode", 210)
    assert answer["cached_tokens"] == 208, "prompt and thoughts but for the last token's block"
    assert end_to_end(ran) == thinking + llm_ns(210 - 208, 10)


@pytest.mark.parametrize("key", ["n", "beam"])
def test_several_answers_share_the_prompt(key):
    size = {"kind": "uniform", "low": 5, "high": 60}
    nodes = ["prefill", Stage("decode", options={key: 4, "tokens": size})]
    ran = simulate(plan_of(nodes), one(prompt=160), STEPS)
    answers = rows(ran)
    assert sorted(answer["cached_tokens"] for answer in answers) == [0, 144, 144, 144]
    lengths = {answer["output_tokens"] for answer in answers}
    assert len(lengths) == (1 if key == "beam" else 4), "beams are of one length"
    prompts = 30_000 * (160 + 3 * 16)
    assert end_to_end(ran) == 3_000_000 * max(lengths) + prompts


def test_thinking_before_the_answer_is_one_job():
    nodes = ["prefill", Stage("reason", options={"tokens": fixed(50)}), "decode"]
    ran = simulate(plan_of(nodes), one(prompt=160, output=10), STEPS)
    assert [job["what"] for job in rows(ran)] == ["prefill+reason+decode"]
    assert end_to_end(ran) == llm_ns(160, 60)
    assert ran.table("requests")["output_tokens"].tolist() == [60]


def test_hidden_thinking_delays_the_first_token():
    nodes = ["prefill", Stage("reason", options={"tokens": fixed(50), "hidden": True}), "decode"]
    ran = simulate(plan_of(nodes), one(prompt=160, output=10), STEPS)
    assert [job["what"] for job in rows(ran)] == ["prefill+reason", "decode"]
    table = ran.table("requests")
    assert int(table["first_token_ns"][0]) == llm_ns(160, 50) + llm_ns(210 - 208, 1)
    assert table["output_tokens"].tolist() == [10]


def test_thoughts_of_the_workload():
    nodes = ["prefill", "reason", "decode"]
    source = ScriptedSource([(0, 100, 5)], columns={"reasoning_tokens": [30]})
    assert end_to_end(simulate(plan_of(nodes), source, STEPS)) == llm_ns(100, 35)


def test_a_tree_of_thoughts():
    nodes = ["prefill", Stage("reason", options={"tokens": fixed(16), "tree": {"width": 3, "depth": 2}}), "decode"]
    ran = simulate(plan_of(nodes), one(prompt=160, output=4), STEPS)
    thoughts = [job for job in rows(ran) if job["what"].endswith("reason")]
    assert len(thoughts) == 3 + 9
    assert rows(ran)[-1]["prompt_tokens"] == 160 + 2 * 16


def test_the_first_path_stops_the_others():
    size = {"kind": "uniform", "low": 10, "high": 500}
    nodes = ["prefill", Stage("reason", options={"tokens": size, "paths": 6, "vote": "first"}), "decode"]
    ran = simulate(plan_of(nodes), one(prompt=32), STEPS)
    thoughts = [job for job in rows(ran) if job["what"] == "prefill+reason"]
    finished = [job for job in thoughts if job["status"] == Status.FINISHED]
    assert len(finished) == 1
    assert {job["status"] for job in thoughts} == {Status.FINISHED, Status.CANCELLED}
    assert finished[0]["output_tokens"] == min(
        job["output_tokens"]
        for job in rows(
            simulate(
                plan_of(["prefill", Stage("reason", options={"tokens": size, "paths": 6}), "decode"]),
                one(prompt=32),
                STEPS,
            )
        )
        if job["what"] == "prefill+reason"
    )


def test_a_budget_caps_all_thoughts():
    options = {"tokens": fixed(1000), "paths": 4, "budget": 400}
    ran = simulate(plan_of(["prefill", Stage("reason", options=options), "decode"]), one(), STEPS)
    assert [job["output_tokens"] for job in rows(ran) if job["what"] == "prefill+reason"] == [100] * 4


def test_several_rounds_think_on():
    options = {"tokens": fixed(16), "rounds": 3}
    ran = simulate(plan_of(["prefill", Stage("reason", options=options), "decode"]), one(prompt=160, output=4), STEPS)
    assert [job["prompt_tokens"] for job in rows(ran)] == [160, 176, 192, 208]


def test_the_parts_of_an_index_are_searched_at_once():
    nodes = [Stage("retrieve", options={"k": 10, "tokens_per_document": fixed(20)}), "prefill", "decode"]
    pool = service_pool("cpu", "retrieve", clients=4, scatter=True)
    ran = simulate(plan_of(nodes, pool), one(), STEPS)
    assert sum(job["what"] == "retrieve" for job in rows(ran)) == 4
    assert end_to_end(ran) == service_ns(10) + llm_ns(300, 5)


def test_an_image_lengthens_the_prompt():
    nodes = [Stage("encode", options={"items": fixed(2), "tokens_per_item": fixed(576)}), "prefill", "decode"]
    ran = simulate(plan_of(nodes, service_pool("gpu", "encode")), one(), STEPS)
    assert end_to_end(ran) == service_ns(2 * 576) + llm_ns(100 + 2 * 576, 5)


def test_prefill_and_decode_on_two_makes_in_a_graph():
    plan = plan_of(["preprocess", "prefill", "decode"], service_pool("cpu", "preprocess"), stages=("prefill",))
    decode = replace(
        plan.pools[0], name="decode", stages=("decode",),
        kv_transfer=KvTransferPlan(bandwidth_bytes_per_s=131072 * 1e6, latency_ns=1000),
    )  # fmt: skip
    ran = simulate(replace(plan, pools=(*plan.pools, decode)), one(), STEPS)
    # The prompt's 100 tokens take a microsecond each on the wire; the decoding engine computes the last one again.
    jobs = rows(ran)
    assert [job["what"] for job in jobs] == ["preprocess", "prefill", "decode"]
    assert len(ran.table("transfers")["bytes"]) == 1
    assert ran.table("requests")["output_tokens"].tolist() == [5]


def test_kv_of_another_make_is_converted():
    def end(rate):
        plan = plan_of(["prefill", "decode"], stages=("prefill",))
        transfer = KvTransferPlan(bandwidth_bytes_per_s=1e12, latency_ns=0, convert_bytes_per_s=rate)
        decode = replace(plan.pools[0], name="decode", stages=("decode",), kv_transfer=transfer)
        return simulate(replace(plan, pools=(*plan.pools, decode)), one(), STEPS)

    moved = int(end(0.0).table("transfers")["bytes"][0])
    assert end_to_end(end(1e9)) - end_to_end(end(0.0)) == moved


# --- branches ---------------------------------------------------------------------------------------------------------


def test_a_cascade_escalates_with_its_probability():
    escalate = Branch(
        (Choice("large", ("prefill", Stage("decode", options={"quality": 0.9})), 0.3), Choice("done", (), 0.7))
    )
    nodes = ["prefill", Stage("decode", options={"quality": 0.6}), escalate]
    source = ScriptedSource([(i * 50_000_000, 64, 4) for i in range(2000)])
    ran = simulate(plan_of(nodes), source, STEPS)
    totals = ran.outcome.trailer.branches[0]
    assert list(totals.ways) == ["large", "done"]
    assert sum(totals.requests) == 2000
    assert abs(totals.requests[0] - 600) < 4 * (2000 * 0.3 * 0.7) ** 0.5
    assert len(ran.table("stage_jobs")["job"]) == 2000 + totals.requests[0]
    quality = ran.outcome.trailer.pipelines[0]
    assert quality.finished == 2000
    assert quality.quality == pytest.approx(0.9 * totals.requests[0] + 0.6 * totals.requests[1])


def test_luck_is_the_requests_own():
    """The same requests escalate whatever engines they meet."""
    escalate = Branch((Choice("large", ("prefill", "decode"), 0.3), Choice("done", (), 0.7)))
    source = ScriptedSource([(i * 5_000_000, 64, 4) for i in range(300)], columns={"luck": list(range(1, 301))})
    taken = []
    for clients, batching in ((1, "chunked"), (3, "static")):
        ran = simulate(plan_of(["prefill", "decode", escalate], clients=clients, batching=batching), source, STEPS)
        table = ran.table("stage_jobs")
        taken.append(sorted(table["request_id"][table["job"] == 1].tolist()))
    assert taken[0] == taken[1]


def test_a_guard_ends_a_request():
    nodes = ["guard", Branch((Choice("refused", (Stop(),), 1.0), Choice("passed", (), 0.0))), "prefill", "decode"]
    ran = simulate(plan_of(nodes, service_pool("gpu", "guard")), one(), STEPS)
    assert end_to_end(ran) == service_ns(100)
    assert ran.table("requests")["output_tokens"].tolist() == [0]


@pytest.mark.parametrize(
    ("by", "choices", "expected"),
    [
        ("service_class", (Choice("a", service_class="gold"), Choice("b")), [0, 1, 0, 1]),
        ("prompt", (Choice("long", above=100), Choice("short")), [0, 0, 1, 1]),
        ("session", (Choice("a", share=0.5), Choice("b", share=0.5)), None),
    ],
)
def test_ways_by_what_a_request_is(by, choices, expected):
    ways = tuple(replace(choice, nodes=("prefill", "decode")) for choice in choices)
    source = ScriptedSource(
        [(i * 10**9, 200 if i < 2 else 50, 3) for i in range(4)],
        columns={"service_class": [0, 1, 0, 1], "session_id": [5, 5, 9, 9]},
        classes=("gold", "silver"),
    )
    marked = [
        replace(way, nodes=(Stage("tool", options={"latency": time_of(number + 1)}), *way.nodes))
        for number, way in enumerate(ways)
    ]
    ran = simulate(plan_of([Branch(tuple(marked), by)]), source, STEPS)
    table = ran.table("stage_jobs")
    waits = table["client"] == NO_JOB
    way = ((table["end_ns"] - table["start_ns"])[waits] - 1)[np.argsort(table["request_id"][waits])]
    if expected is not None:
        assert way.tolist() == expected
    else:
        assert way[0] == way[1]
        assert way[2] == way[3]


# --- queues -----------------------------------------------------------------------------------------------------------


def test_service_clients_batch_what_waits():
    nodes = ["embed", "prefill", "decode"]
    pool = service_pool("gpu", "embed", max_batch=8)
    source = ScriptedSource([(0, 10, 1)] + [(1_000_000, 10, 1)] * 10)
    ran = simulate(plan_of(nodes, pool), source, STEPS)
    steps = ran.table("steps")
    batches = steps["prefill_seqs"][steps["client"] == 1].tolist()
    assert batches == [1, 8, 2]


def test_workers_serve_side_by_side():
    nodes = [Stage("tool", options={"latency": time_of(10_000_000)}), "prefill", "decode"]
    source = ScriptedSource([(0, 10, 1)] * 5)
    ran = simulate(plan_of(nodes, service_pool("host", "tool", workers=2)), source, STEPS)
    ends = sorted(job["end_ns"] for job in rows(ran) if job["what"] == "tool")
    assert ends == [10_000_000, 10_000_000, 20_000_000, 20_000_000, 30_000_000]
    info = ran.outcome.manifest.clients[1]
    assert info.workers == 2
    assert ran.outcome.trailer.clients[1].busy_ns == 25_000_000


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        (["embed", "prefill"], "no pool accepts the stage 'embed'"),
        ([Stage("prefill", "nowhere")], "there is no pool 'nowhere'"),
        ([Stage("guard", "default"), "prefill"], "cannot do 'guard'"),
    ],
)
def test_a_graph_that_cannot_be_is_refused(nodes, problem):
    with pytest.raises(InputError, match=problem):
        simulate(plan_of(nodes), one(), STEPS)


# --- laws over random graphs ------------------------------------------------------------------------------------------


def sizes():
    return st.one_of(
        st.integers(1, 40).map(fixed),
        st.just({"kind": "lognormal", "median": 12, "p95": 60}),
        st.just({"kind": "uniform", "low": 1, "high": 30}),
    )


def times():
    return st.sampled_from([time_of(1), time_of(3_000_000), {"kind": "exponential", "mean": 20_000_000}])


def leaves():
    thoughts = st.builds(
        lambda tokens, paths, vote, hidden: Stage(
            "reason", options={"tokens": tokens, "paths": paths, "vote": vote, "hidden": hidden}
        ),
        sizes(), st.integers(1, 3), st.sampled_from(["all", "majority", "first"]), st.booleans(),
    )  # fmt: skip
    answer = st.builds(
        lambda tokens, n: Stage("decode", options={"tokens": tokens, "n": n}), sizes(), st.integers(1, 3)
    )
    llm = st.one_of(
        answer.map(lambda stage: ("prefill", stage)),
        st.tuples(thoughts, answer).map(lambda pair: ("prefill", *pair)),
        st.just(("prefill", "decode")),
    )
    service = st.one_of(
        st.sampled_from(["preprocess", "embed", "postprocess"]).map(lambda kind: (kind,)),
        st.builds(
            lambda k, t: (Stage("retrieve", options={"k": k, "tokens_per_document": t}),), st.integers(1, 4), sizes()
        ),
        st.builds(lambda time, t: (Stage("tool", options={"latency": time, "result_tokens": t}),), times(), sizes()),
    )
    return st.one_of(llm, service)


def graphs():
    def grow(inner):
        parts = st.lists(inner, min_size=1, max_size=3).map(lambda found: sum(found, ()))
        return st.one_of(
            parts,
            st.builds(
                lambda nodes, wait: (Parallel(tuple(nodes), wait),),
                st.lists(parts, min_size=2, max_size=3),
                st.sampled_from(["all", "majority", "first"]),
            ),
            st.builds(
                lambda a, b, p: (Branch((Choice("a", a, p), Choice("b", b, 1 - p))),),
                parts,
                parts,
                st.sampled_from([0.3, 0.5]),
            ),
            st.builds(
                lambda nodes, most, p: (Loop(nodes, most, p),), parts, st.integers(1, 3), st.sampled_from([0.5, 1.0])
            ),
        )

    return st.recursive(leaves(), grow, max_leaves=6)


@st.composite
def worlds(draw):
    nodes = (*draw(graphs()), "prefill", "decode")
    pools = (
        service_pool(
            "cpu", "preprocess", "postprocess", "retrieve",
            clients=draw(st.integers(1, 3)), workers=draw(st.integers(1, 2)),
            scatter=draw(st.booleans()), variation=draw(st.sampled_from([0.0, 0.5])),
        ),
        service_pool("gpu", "embed", max_batch=draw(st.integers(1, 5))),
    )  # fmt: skip
    if draw(st.booleans()):
        pools = (*pools, service_pool("host", "tool", workers=2))
    timeout = draw(st.sampled_from([0, 0, 0, 200_000_000]))
    settings_of = EngineSettings(
        kv_blocks=draw(st.sampled_from([40, 200, 4001])),
        max_num_seqs=draw(st.integers(2, 12)),
        max_num_batched_tokens=draw(st.integers(16, 300)),
        prefix_caching=draw(st.booleans()),
        asynchronous_scheduling=draw(st.booleans()),
        client_timeout_ns=timeout,
        client_retries=1 if timeout and draw(st.booleans()) else 0,
        client_backoff_ns=50_000_000,
    )
    plan = small_plan(
        settings_of, clients=draw(st.integers(1, 3)),
        router=draw(st.sampled_from(["least_tokens", "random", "round_robin"])),
        stages=("prefill", "reason", "decode"),
    )  # fmt: skip
    if draw(st.booleans()):
        first = replace(plan.pools[0], stages=("prefill",))
        second = replace(plan.pools[0], name="decode", stages=("prefill", "reason", "decode"))
        nodes = tuple(_named(node) for node in nodes)
        plan = replace(plan, pools=(first, second))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    n = draw(st.integers(1, 12))
    gap = draw(st.sampled_from([0, 3_000_000, 40_000_000]))
    source = ScriptedSource(
        list(
            zip(
                np.cumsum(rng.integers(0, gap + 1, n)).tolist(),
                rng.integers(1, 60, n).tolist(),
                rng.integers(1, 20, n).tolist(),
                strict=True,
            )
        ),
        columns={"luck": rng.integers(1, 1 << 62, n).tolist()},
    )
    duration = draw(st.sampled_from([None, None, 150_000_000]))
    return replace(plan, pools=(*plan.pools, *pools), pipelines={"default": nodes}, duration_ns=duration), source


def _named(node):
    """Let prompts go to the first pool of two, and all else of an engine to the second, over the whole graph."""
    stage = Stage(node) if isinstance(node, str) else node
    if isinstance(stage, Stage):
        pool = {"prefill": "default", "reason": "decode", "decode": "decode"}.get(stage.kind, "")
        return replace(stage, pool=pool)
    if isinstance(stage, Parallel):
        return replace(stage, branches=tuple(tuple(_named(part) for part in branch) for branch in stage.branches))
    if isinstance(stage, Branch):
        return replace(
            stage, choices=tuple(replace(c, nodes=tuple(_named(part) for part in c.nodes)) for c in stage.choices)
        )
    return replace(stage, nodes=tuple(_named(part) for part in stage.nodes)) if isinstance(stage, Loop) else stage


COMMON = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
MODEL = AffineStepModel(
    base_fs=1_000_003_000_000, per_seq_fs=70_001_000, per_context_fs=1_000_000, per_prompt_token_fs=9_000_001
)


@COMMON
@given(worlds(), st.sampled_from([MODEL, STEPS]))
def test_exact_mode_gives_the_same_record_of_any_graph(world, model):
    """`STEPS` lets many things happen in one nanosecond."""
    plan, source = world
    fast = simulate(plan, source, model)
    exact = simulate(replace(plan, exact=True), source, model)
    for name in ("requests", "stage_jobs", "transfers"):
        mine, theirs = fast.table(name), exact.table(name)
        for column, values in mine.items():
            assert values.tolist() == theirs[column].tolist(), (name, column)


@COMMON
@given(worlds())
def test_nothing_is_lost_in_any_graph(world):
    plan, source = world
    ran = simulate(plan, source, MODEL)
    requests, jobs = ran.table("requests"), ran.table("stage_jobs")
    arrived = sum(row[0] <= (plan.duration_ns or 1 << 62) for row in source.rows)
    assert sorted(requests["request_id"].tolist()) == list(range(arrived))
    assert requests["prompt_tokens"].tolist() == [source.rows[i][1] for i in requests["request_id"].tolist()]
    ended = requests["status"] == Status.FINISHED
    assert (requests["end_ns"][ended] >= requests["arrival_ns"][ended]).all()
    if plan.duration_ns is None:
        assert (requests["status"] != Status.UNFINISHED).all()
        assert ran.outcome.trailer.end_ns >= jobs["end_ns"].max()
    # A job begins when the one that let it begin has ended; numbers of jobs are unique.
    for request in range(arrived):
        mine = jobs["request_id"] == request
        numbers = jobs["job"][mine].tolist()
        assert len(set(numbers)) == len(numbers)
        end_of = dict(zip(numbers, jobs["end_ns"][mine].tolist(), strict=True))
        for number, after, began in zip(
            numbers, jobs["after"][mine].tolist(), jobs["enqueue_ns"][mine].tolist(), strict=True
        ):
            if after != NO_JOB and plan.pools[0].engine.client_retries == 0:
                assert end_of[after] == began, (request, number)
    if plan.duration_ns is None:
        for client in ran_clients(ran):
            assert client.scheduler.pool.available == client.scheduler.pool.total
            assert not client.scheduler.running


def test_what_is_tried_again_is_not_taken_for_what_it_had_grown_to():
    """Its first try gave a name to the prompt with the documents in it; the second has the prompt alone at first."""
    patient = EngineSettings(kv_blocks=4001, client_timeout_ns=40_000_000, client_retries=1, client_backoff_ns=1_000)
    documents = {"k": 1, "tokens_per_document": {"kind": "fixed", "tokens": 26}}
    nodes = (Stage("retrieve", options=documents), "prefill", Stage("decode", options={"tokens": fixed(22), "n": 3}))
    pool = service_pool("cpu", "retrieve")
    plan = replace(small_plan(patient), pipelines={"default": (*nodes, "prefill", "decode")})
    plan = replace(plan, pools=(*plan.pools, pool))
    ran = simulate(plan, ScriptedSource([(0, 19, 40)]), MODEL)
    assert ran.table("requests")["status"].tolist() == [Status.TIMED_OUT]
    assert len(ran.table("stage_jobs")["job"]) >= 8, "both tries came to the engine"


def ran_clients(ran):
    return ran.simulation.assembly.llm_clients


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "mean"),
    [
        (fixed(7), 7),
        ({"kind": "uniform", "low": 1, "high": 9}, 5),
        ({"kind": "lognormal", "mean": 300, "cv": 1.0}, 300),
        ({"kind": "exponential", "mean": 4000}, 4000),
        ({"kind": "normal", "mean": 100, "std": 10}, 100),
        ({"kind": "empirical", "values": [1, 9], "weights": [3, 1]}, 3),
        ({"kind": "quantiles", "values": [0, 10, 100]}, 30),
        ({"kind": "pareto", "minimum": 100, "shape": 4}, 400 / 3),
        (
            {
                "kind": "mixture",
                "parts": [
                    {"weight": 1, "of": fixed(2)},
                    {"weight": 3, "of": {"kind": "uniform", "low": 9, "high": 11}},
                ],
            },
            8,
        ),
    ],
)
def test_draws_have_their_mean(size, mean):
    draw = draw_of(size)
    n = 20_000
    values = [draw(unit(12345, key)) for key in range(n)]
    assert np.mean(values) == pytest.approx(mean, abs=4.5 * np.std(values) / n**0.5 + 0.51)


def test_a_fresh_context_leaves_answers_out():
    tool = Stage("tool", options={"latency": time_of(5), "result_tokens": fixed(40)})
    judge = (Stage("prefill", options={"context": "continue"}), Stage("decode", options={"tokens": fixed(2)}))
    again = (Stage("prefill", options={"context": "fresh"}), "decode")
    ran = simulate(plan_of(["prefill", "decode", *judge, tool, *again]), one(prompt=100, output=20), STEPS)
    jobs = [job for job in rows(ran) if job["what"] != "tool"]
    assert [job["prompt_tokens"] for job in jobs] == [100, 120, 140], "the tool's result stays, both answers go"
    assert [job["cached_tokens"] for job in jobs] == [0, 112, 96]


def test_nothing_waits_for_the_end_of_the_run_to_be_freed():
    """The collector of reference cycles is off while a run lasts, so what has ended must not be in one."""
    tool = Stage("tool", options={"latency": time_of(1_000_000), "result_tokens": fixed(8)})
    think = Stage("reason", options={"tokens": {"kind": "uniform", "low": 4, "high": 40}, "paths": 3, "vote": "first"})
    nodes = ["embed", Parallel((("embed",), (tool,)), "first"), Loop(("prefill", "decode", tool), most=2), "prefill",
             think, "decode"]  # fmt: skip
    source = ScriptedSource([(i * 1_000_000_000, 32, 4) for i in range(60)])
    gc.collect()
    gc.disable()
    try:
        ran = simulate(plan_of(nodes, service_pool("gpu", "embed")), source, STEPS)
        left = sum(isinstance(thing, Flow) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert len(ran.table("requests")["end_ns"]) == 60
    assert left <= 8, "a few may still be in the hands of an engine"


def test_only_a_context_that_is_computed_again_is_told_apart():
    """Two ways of a branch are no second look at one context: no identity, nothing kept in the prefix cache."""
    ways = Branch((Choice("a", ("prefill", "decode"), 0.5), Choice("b", ("prefill", "decode"), 0.5)))
    ran = simulate(plan_of([ways]), one(), STEPS)
    assert [op.revisited for op in ran.simulation.assembly.programs[0].ops if isinstance(op, LlmJob)] == [False, False]
    again = simulate(plan_of(["prefill", "decode", ways]), one(), STEPS)
    jobs = [op.revisited for op in again.simulation.assembly.programs[0].ops if isinstance(op, LlmJob)]
    assert jobs == [True, False, False]
    loop = simulate(plan_of([Loop(("prefill", "decode"), most=2)]), one(), STEPS)
    assert [op.revisited for op in loop.simulation.assembly.programs[0].ops if isinstance(op, LlmJob)] == [True]
