"""The zero-load law: a request that is alone takes the longest path through its graph of stage prices, transfers and
host overheads, less the overlap that is declared. The sum is made here, from the compiled prices asked directly."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hermes_core.api.hardware import StepShape
from hermes_core.api.plugins import load_plugin
from hermes_core.api.time import FS_PER_NS
from hermes_core.record import MemorySink
from hermes_core.runs import plan_of
from hermes_core.serving.assembly import compile_pool
from hermes_core.serving.pipelines.nodes import Branch, Loop, Parallel, Stage, Stop
from hermes_core.serving.plan import PoolPlan
from hermes_core.simulation import Simulation
from hermes_core.testing import ScriptedSource, Simulated

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "examples"

CASES = [
    ("pipelines/rag", "rag", 40, 50, 0),
    ("pipelines/agent", "agent", 300, 40, 0),
    ("pipelines/cascade", "cascade", 500, 60, 0),
    ("pipelines/cascade", "cascade", 500, 60, 1),
    ("pipelines/cascade", "large", 500, 60, 0),
    ("pipelines/reasoning", "best_of_8", 500, 100, 0),
    ("pipelines/reasoning", "long_chain", 500, 100, 0),
    ("pipelines/vision", "look", 60, 40, 0),
    ("pipelines/two_makes", "default", 1500, 80, 0),
    ("pipelines/three_models", "code", 3000, 50, 0),
    ("pipelines/three_models", "talk", 600, 50, 0),
    ("pipelines/three_models", "talk", 200, 50, 1),
    ("quickstart", "default", 1000, 200, 0),
    ("disaggregated", "default", 2000, 100, 0),
    ("custom_device", "default", 1000, 100, 0),
    ("overload", "default", 1000, 100, 0),
    ("vendor-python/scenario", "default", 1000, 100, 0),
]
"""File, pipeline, prompt, output, and which way the request goes at each branch."""
TOKENS, ITEMS, TIME_NS = 96, 2, 300_000_000
"""Of whatever the pipeline would draw: sizes and times become these, so that both sides speak of the same request."""


def fixed(key, value):
    if isinstance(value, dict) and "kind" in value:
        if key == "latency":
            return {"kind": "fixed", "value": TIME_NS}
        return {"kind": "fixed", "tokens": ITEMS if key == "items" else TOKENS}
    return value


def settled(nodes, way):
    """Return nodes that leave nothing to chance."""
    result = []
    for node in nodes:
        if isinstance(node, Stage):
            done = replace(node, options={key: fixed(key, value) for key, value in node.options.items()})
        elif isinstance(node, Parallel):
            done = replace(node, branches=tuple(settled(branch, way) for branch in node.branches))
        elif isinstance(node, Branch):
            choices = tuple(replace(choice, nodes=settled(choice.nodes, way)) for choice in node.choices)
            if node.by == "chance":
                choices = tuple(replace(choice, share=float(at == way)) for at, choice in enumerate(choices))
            done = replace(node, choices=choices)
        elif isinstance(node, Loop):
            done = replace(node, nodes=settled(node.nodes, way), probability=1.0)
        else:
            done = node
        result.append(done)
    return tuple(result)


# --- the other side of the law ----------------------------------------------------------------------------------------


def to_ns(femtos):
    return (femtos + FS_PER_NS // 2) // FS_PER_NS


@dataclass
class Lone:
    """One request on its way, with nobody else about."""

    plan: object
    compiled: dict
    prompt: int
    output: int
    way: int
    now: int = 0
    context: int = 0
    grown: int = 0
    answer: int = 0
    given: int = 0
    answers_inside: int = 0
    """Tokens of the context that are answers."""
    kv: dict = field(default_factory=dict)
    """Tokens of the context whose KV each pool has."""
    in_loop: bool = False

    def pool(self, stage):
        accepting = [pool for pool in self.plan.pools if stage.kind in pool.stages]
        named = [pool for pool in accepting if pool.name == stage.pool] if stage.pool else accepting
        return named[0] if named else None

    def walk(self, nodes):
        nodes = [Stage(node) if isinstance(node, str) else node for node in nodes]
        at = 0
        while at < len(nodes):
            node = nodes[at]
            at += 1
            if isinstance(node, Loop):
                self.in_loop = True
                for _ in range(node.most):
                    self.walk(node.nodes)
                self.in_loop = False
            elif isinstance(node, Branch):
                self.walk(self.chosen(node).nodes)
            elif isinstance(node, Parallel):
                raise TypeError("no example has parallel parts yet: add up the longest here")
            elif isinstance(node, Stop):
                return
            elif node.kind == "prefill":
                follow = []
                while at < len(nodes) and isinstance(nodes[at], Stage) and nodes[at].kind in ("reason", "decode"):
                    follow.append(nodes[at])
                    at += 1
                self.llm(node, follow)
            else:
                self.serve(node)

    def chosen(self, node):
        if node.by == "prompt":
            return next(choice for choice in node.choices if self.prompt > choice.above)
        return node.choices[self.way]

    # --- services -----------------------------------------------------------------------------------------------------

    def serve(self, stage):
        options = stage.options
        question = self.context - self.grown
        if stage.kind == "tool":
            self.now += TIME_NS
            self.absorb()
            self.grow(TOKENS if "result_tokens" in options else 0)
            return
        if stage.kind == "retrieve":
            sizes = (1, options["k"], 0)
            added = options["k"] * TOKENS if "tokens_per_document" in options else 0
        elif stage.kind == "rerank":
            count, each = options["documents"], question + TOKENS
            sizes, added = (count, count * each, count * each * each), options["keep"] * TOKENS
        elif stage.kind == "encode":
            count = ITEMS if "items" in options else 1
            sizes, added = (count, count * TOKENS, count * TOKENS * TOKENS), count * TOKENS
        else:
            tokens = self.given or (question if stage.kind == "embed" else self.context)
            sizes, added = (1, tokens, tokens * tokens), 0
        price = self.compiled[self.pool(stage).name][stage.kind].model.price(1, *sizes)
        self.now += to_ns(price[0])
        self.grow(added)

    def grow(self, tokens):
        self.context += tokens
        self.grown += tokens

    def absorb(self):
        self.grow(self.answer)
        self.answers_inside += self.answer
        self.answer = 0

    # --- engines ------------------------------------------------------------------------------------------------------

    def llm(self, prefill, follow):
        pool = self.pool(prefill)
        thinking = next((stage for stage in follow if stage.kind == "reason"), None)
        answer = next((stage for stage in follow if stage.kind == "decode"), None)
        if prefill.options.get("context") == "fresh":
            self.grow(-self.answers_inside)
            self.answer = self.answers_inside = 0
        elif prefill.options.get("context") == "continue" or self.in_loop:
            self.absorb()
        tokens = self.output if "tokens" not in answer.options else TOKENS
        visible = not answer.options.get("internal", False)
        if thinking is not None:
            self.job(pool, TOKENS, paths=thinking.options.get("paths", 1))
            self.absorb()
            self.job(pool, tokens, visible=visible)
            return
        other = self.pool(answer)
        if other is not pool:
            self.job(pool, 1, visible=False)
            self.hand_over(pool, other)
            self.job(other, tokens, visible=visible, handed_over=True)
        else:
            self.job(pool, tokens, visible=visible)

    def hand_over(self, pool, other):
        """The next engine fetches the KV of the whole prompt."""
        plan, size = other.kv_transfer, self.compiled[other.name].kv_transfer_bytes_per_token
        assert not plan.layer_wise, "the prefill would hide a part"
        self.now += plan.latency_ns + round(self.context * size / plan.bandwidth_bytes_per_s * 1e9)

    def job(self, pool, tokens, *, paths=1, visible=False, handed_over=False):
        steps, front, block = self.compiled[pool.name].steps, pool.engine.front_end, pool.engine.block_size_tokens
        assert not steps.window
        prompt = self.context
        assert prompt <= pool.engine.max_num_batched_tokens, "a prompt in one chunk"
        self.now += front.request_ns + front.per_prompt_token_ns * prompt
        have = [min(self.kv.get(pool.name, 0), prompt - 1)] + [prompt - 1] * (paths - 1)
        # Blocks that are full are found again; of KV that was sent, all but the token whose logits are wanted.
        new = [1] if handed_over else [prompt - tokens // block * block for tokens in have]
        shape = StepShape(
            prefill_seqs=paths,
            prefill_tokens=sum(new),
            prefill_pairs2=sum(x * (2 * (prompt - x) + x + 1) for x in new),
            prefill_windowed_pairs2=sum(x * (2 * (prompt - x) + x + 1) for x in new),
            prefill_context=paths * prompt,
            sampled_seqs=paths,
        )
        femtos = steps.step(shape)[0]
        for context in range(prompt, prompt + tokens - 1):
            femtos += steps.decode_run(paths, paths * context, paths * context, paths)[0]
        self.now += to_ns(femtos)
        self.kv[pool.name] = prompt + tokens - 1
        self.answer = tokens
        if visible:
            # Its last token waits for the streams that are left: for none.
            self.given = tokens


@pytest.mark.parametrize(("file", "pipeline", "prompt", "output", "way"), CASES)
def test_a_lone_request_takes_the_longest_path(file, pipeline, prompt, output, way, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    plan = plan_of(EXAMPLES / f"{file}.yaml")
    nodes = settled(plan.pipelines[pipeline], way)
    plan = replace(plan, pipelines={**plan.pipelines, pipeline: nodes}, duration_ns=None)
    compiled = {pool.name: compile_pool(pool, load_plugin) for pool in plan.pools}
    source = ScriptedSource([(0, prompt, output)], pipelines=(pipeline,), columns={"luck": [7]})
    sink = MemorySink()
    simulation = Simulation(plan, source=source, compiled=compiled)
    ran = Simulated(simulation.run(sink=sink), sink.chunks, simulation)
    requests = ran.table("requests")
    lone = Lone(plan, compiled, prompt, output, way, context=prompt)
    lone.walk(nodes)
    took = int(requests["end_ns"][0] - requests["arrival_ns"][0])
    assert took == lone.now
    assert requests["prompt_tokens"].tolist() == [prompt]
    pools = {pool.name for pool in plan.pools if isinstance(pool, PoolPlan)}
    assert lone.kv.keys() <= pools


def test_every_example_is_among_the_cases():
    named = {f"{case[0]}.yaml" for case in CASES} | {"trace_replay.yaml"}
    assert {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("pipelines/*.yaml")} <= named
    assert {path.name for path in EXAMPLES.glob("*.yaml")} <= named
