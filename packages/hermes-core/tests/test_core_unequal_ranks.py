"""What a step of unequal data-parallel ranks is priced as: padded alike under a captured graph, as it is above."""

from types import SimpleNamespace

import pytest
from hermes_core.api.hardware import StepShape
from hermes_core.serving.llm.rank_group import LockStepModel

MS_FS = 10**12
WAITING_W = 200.0


class Model:
    """A millisecond and 1,000 nJ a token. Remembers what it is asked."""

    window = 0

    def __init__(self):
        self.asked = []

    def step(self, shape):
        self.asked.append(shape)
        tokens = shape.decode_seqs + shape.prefill_tokens
        return tokens * MS_FS, tokens * 1000

    def decode_run(self, seqs, context, windowed, growing):
        return seqs * MS_FS, seqs, 100, seqs * 1000, 7 * seqs


def rank(decoding, prompt):
    sums = (10 * decoding, 10 * decoding, decoding)
    batch = SimpleNamespace(count=decoding, sums=lambda: sums, outlook=lambda: sums)
    shape = StepShape(prefill_seqs=1, prefill_tokens=prompt)
    return SimpleNamespace(batch=batch, decode=decoding > 0, chunks=[1] if prompt else [], shape=shape)


def priced(ranks, graphs):
    group = SimpleNamespace(ranks=ranks, settings=SimpleNamespace(graph_sizes=graphs))
    model = Model()
    return LockStepModel(model, group, WAITING_W).step(StepShape()), [shape.group_tokens for shape in model.asked]


@pytest.mark.parametrize(
    ("ranks", "graphs", "slowest", "together"),
    [
        ([(10, 500), (20, 0)], (8, 256), 510, [530, 530]),
        # A captured graph: all as the fullest.
        ([(10, 200), (20, 0)], (8, 256), 210, [0, 0]),
        # Without graphs nobody pads; who has nothing to do runs one token.
        ([(10, 20), (0, 0), (0, 0)], (), 30, [32]),
    ],
)
def test_ranks_are_padded_alike_only_where_a_graph_is_replayed(ranks, graphs, slowest, together):
    (fs, _), asked = priced([rank(*one) for one in ranks], graphs)
    assert fs == slowest * MS_FS
    assert asked == together


@pytest.mark.parametrize(
    ("ranks", "graphs", "energy"),
    [
        # Padded to the fullest: each of the three draws what 210 tokens do.
        ([(10, 200), (20, 0), (0, 0)], (8, 256), 3 * 210_000),
        # Beyond graphs each draws its own, and 200 W while it waits: 490 ms one rank, 510 ms the other (J in nJ).
        ([(10, 500), (20, 0), (0, 0)], (8, 256), 510_000 + 20_000 + 200 * (0.490 + 0.510) * 1e9),
        # Where all only decode, those that wait have nearly as much to do.
        ([(10, 0), (20, 0)], (), 2 * 20_000),
    ],
)
def test_energy_is_of_all_ranks(ranks, graphs, energy):
    (_, nj), _ = priced([rank(*one) for one in ranks], graphs)
    assert nj == pytest.approx(energy)


def test_a_stretch_of_decoding_draws_the_energy_of_all_ranks():
    group = SimpleNamespace(ranks=[rank(10, 0), rank(20, 0), rank(0, 0)], settings=SimpleNamespace(graph_sizes=(64,)))
    model = LockStepModel(Model(), group, WAITING_W)
    assert model.decode_run(30, 300, 300, 30)[3:] == (3 * 20_000, 3 * 140)
    assert model.step(StepShape())[1] == 3 * 20_000


def test_a_stretch_ends_where_another_rank_that_is_as_slow_draws_more():
    model = Model()
    model.decode_run = lambda seqs, *_: (5 * MS_FS, 0, 100, 1000 - seqs, seqs)
    group = SimpleNamespace(ranks=[rank(1, 0), rank(5, 0)], settings=SimpleNamespace(graph_sizes=(64,)))
    # 999, 1000, ... beside 995, 1000, ...: from the second step on it is the other's.
    assert LockStepModel(model, group).decode_run(6, 60, 60, 6) == (5 * MS_FS, 0, 1, 2 * 999, 2)
