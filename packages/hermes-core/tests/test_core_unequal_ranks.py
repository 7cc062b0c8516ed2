"""What a step of unequal data-parallel ranks is priced as: padded alike under a captured graph, as it is above."""

from types import SimpleNamespace

import pytest
from hermes_core.api.hardware import StepShape
from hermes_core.serving.llm.rank_group import LockStepModel


class Model:
    """Remembers what it is asked."""

    window = 0

    def __init__(self):
        self.asked = []

    def step(self, shape):
        self.asked.append(shape)
        return shape.decode_seqs + shape.prefill_tokens, 0


def rank(decoding, prompt):
    batch = SimpleNamespace(count=decoding, sums=lambda: (10 * decoding, 10 * decoding, decoding))
    shape = StepShape(prefill_seqs=1, prefill_tokens=prompt)
    return SimpleNamespace(batch=batch, decode=decoding > 0, chunks=[1] if prompt else [], shape=shape)


def priced(ranks, graphs):
    group = SimpleNamespace(ranks=ranks, settings=SimpleNamespace(graph_sizes=graphs))
    model = Model()
    return LockStepModel(model, group).step(StepShape()), [shape.group_tokens for shape in model.asked]


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
    assert fs == slowest
    assert asked == together
