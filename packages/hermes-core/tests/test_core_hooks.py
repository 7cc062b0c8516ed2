"""What a user can hang into the engine: an observer of steps, a policy of their own."""

from hermes_core.serving.llm.scheduling.policies.chunked import Chunked
from hermes_core.serving.llm.settings import EngineSettings
from hermes_core.testing import ScriptedSource, simulate, small_plan

SOURCE = ScriptedSource([(0, 300, 40), (10_000_000, 200, 30), (400_000_000, 500, 5)])


class HalfChunks:
    """Works on at most half the token budget of prompts while someone decodes."""

    every_step = False
    prompts_first = False

    def __init__(self, settings):
        self._budget = settings.max_num_batched_tokens

    def plan(self, batch):
        left = self._budget // 2 if batch.decode_seqs else self._budget
        for seq in tuple(batch.prefilling):
            left -= batch.extend(seq, left)
        while left > 0 and (taken := batch.admit(left)):
            left -= taken


def test_an_observer_sees_what_the_record_has():
    seen = []
    run = simulate(small_plan(), SOURCE, observer=seen.append)
    steps = run.table("steps")
    assert [stretch.first_step for stretch in seen] == steps["first_step"].tolist()
    assert [stretch.t0_fs for stretch in seen] == steps["t0_fs"].tolist()
    assert sum(stretch.decode_seqs * stretch.steps for stretch in seen) == 39 + 29 + 4


def test_a_policy_object_changes_the_schedule():
    engine = EngineSettings(kv_blocks=1001, batching="mine", max_num_batched_tokens=128)
    mine = simulate(small_plan(engine), SOURCE, plugins={"hermes.batch_policies": {"mine": HalfChunks}})
    plain = simulate(small_plan(engine), SOURCE, plugins={"hermes.batch_policies": {"mine": Chunked}})
    beside = [
        run.table("steps")["prefill_tokens"][run.table("steps")["decode_seqs"] > 0].max() for run in (mine, plain)
    ]
    assert beside == [64, 127]
