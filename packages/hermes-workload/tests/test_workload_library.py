"""The shipped workloads say where their figures come from, and are what they say."""

import re

import numpy as np
import pytest
from hermes_workload import WorkloadError, open_workload
from hermes_workload.batch import concatenate
from hermes_workload.named import load, names

ASKED_FOR = (
    "chat", "code-completion", "code-agent", "rag", "summarisation", "reasoning", "batch-offline", "multimodal",
)  # fmt: skip


def drawn(name, requests=30_000):
    return concatenate(list(open_workload({"kind": "named", "name": name, "requests": requests}, 1).batches()))


def test_every_use_has_its_workload():
    assert set(ASKED_FOR) <= set(names())


@pytest.mark.parametrize("name", names())
def test_sources_have_a_title_and_a_year_and_what_no_source_says_is_told(name):
    found = load(name)
    assert re.search(r"\b20\d\d\b", found.source)
    assert len(found.source) > 60
    fitted = found.source.startswith("Fitted")
    assert bool(found.assumptions) != fitted


@pytest.mark.parametrize("name", names())
def test_the_rate_and_the_length_are_those_it_says(name):
    found = load(name)
    requests = sum(len(batch) for batch in open_workload({"kind": "named", "name": name}, 1).batches())
    assert requests == found.requests
    if found.rate_per_s is None:
        with pytest.raises(WorkloadError, match="no rate: the requests of"):
            open_workload({"kind": "named", "name": name, "rate_per_s": 2})
        return
    # Conversations that have begun go on after the last begins, so their requests are rather counted by beginning.
    batch = drawn(name)
    begun = batch.arrival_ns[-1] / 1e9
    assert len(batch) / begun == pytest.approx(found.rate_per_s, rel=0.35 if name.startswith("azure-code") else 0.2)


def test_published_figures_are_met():
    chat = drawn("chat")
    own = chat.segment_tokens[chat.segment_offsets[1:] - 1]
    assert own.mean() == pytest.approx(69.5, rel=0.05)
    assert chat.output_tokens.mean() == pytest.approx(214.5, rel=0.05)
    assert len(chat) / np.count_nonzero(chat.turn == 0) == pytest.approx(2.0, rel=0.05)
    agent = drawn("code-agent", 60_000)
    assert np.median(np.bincount(agent.session_id)) == pytest.approx(33, abs=3)
    assert agent.prompt_tokens[agent.turn == 29].mean() == pytest.approx(80_000, rel=0.1)
    assert agent.prompt_tokens.sum() / agent.output_tokens.sum() == pytest.approx(131, rel=0.1)
    rag = drawn("rag")
    assert (np.diff(rag.segment_offsets) == 7).all()  # instructions, five passages, the question
    batch = drawn("batch-offline", 24_576)
    assert not batch.arrival_ns.any()
    assert batch.output_tokens.mean() == pytest.approx(294.45, rel=0.04)
    assert batch.prompt_tokens.max() == batch.output_tokens.max() == 1024
    images = drawn("multimodal").prompt_tokens
    assert np.mean(images > 2880) == pytest.approx(1 / 3, abs=0.01)
    reasoning = drawn("reasoning")
    assert reasoning.reasoning_tokens.sum() / reasoning.output_tokens.sum() == pytest.approx(0.78, abs=0.02)
    texts = drawn("summarisation")
    assert np.mean(texts.output_tokens > 300) == pytest.approx(0.2, abs=0.02)
