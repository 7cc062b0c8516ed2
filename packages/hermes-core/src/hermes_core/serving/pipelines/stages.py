"""The built-in stage kinds beside those of LLM engines (entry-point group hermes.stages)."""

from collections.abc import Mapping
from typing import Any

from hermes_core.serving.pipelines.build import Builder
from hermes_core.serving.pipelines.control import Extend, Growth
from hermes_core.serving.pipelines.flow import Flow
from hermes_core.serving.pipelines.growth import result, text_of, texts
from hermes_core.serving.pipelines.luck import Draw, always, draw_of, unit
from hermes_core.serving.pipelines.nodes import Stage
from hermes_core.serving.request import Request
from hermes_core.serving.services.pool import Counts, ServiceJob, Wait


def text(stage: Stage, builder: Builder) -> None:
    """`preprocess`, `embed`, `guard`, `route`, `postprocess`: one text, of the prompt or of the answer before it."""
    tokens = _draw(stage.options, "tokens")
    answer = builder.answered if stage.options.get("of") is None else stage.options["of"] == "answer"
    whole = stage.kind != "embed"

    def counts(request: Request, flow: Flow, place: int) -> tuple[int, int, int]:
        if tokens is not None:
            size = tokens(unit(flow.luck, place))
        elif answer:
            size = flow.given_tokens or flow.answer_tokens
        else:
            # What is searched for is what the user has asked.
            size = request.prompt_tokens if whole else request.prompt_tokens - flow.grown_tokens
        return 1, size, size * size

    _serve(stage, builder, counts)


def retrieve(stage: Stage, builder: Builder) -> None:
    """`retrieve`: the `k` nearest of an index; with `tokens_per_document` they join the context."""
    k = int(stage.options.get("k", 10))
    grow = None
    if "tokens_per_document" in stage.options:
        grow = _documents(k, stage.options)

    def counts(request: Request, flow: Flow, place: int) -> tuple[int, int, int]:  # noqa: ARG001
        return 1, k, 0

    pool = builder.service_pool(stage)
    if pool.scatter and len(pool.clients) > 1:
        number, stage_set = pool.number_of(stage.kind), builder.stage_set(stage.kind)
        builder.scatter(lambda: ServiceJob(pool, number, stage_set, builder.place, counts), len(pool.clients))
        if grow is not None:
            builder.emit(Extend(builder.coordinator, builder.place, grow))
    else:
        _serve(stage, builder, counts, grow)


def rerank(stage: Stage, builder: Builder) -> None:
    """`rerank`: reads each of `documents` with the question, and keeps `keep` of them in the context."""
    documents = int(stage.options["documents"])
    keep = int(stage.options["keep"])
    length = draw_of(stage.options["tokens_per_document"])
    grow = _documents(keep, stage.options)
    same = always(stage.options["tokens_per_document"])

    def counts(request: Request, flow: Flow, place: int) -> tuple[int, int, int]:
        each = request.prompt_tokens - flow.grown_tokens + (same or length(unit(flow.luck, place)))
        return documents, documents * each, documents * each * each

    _serve(stage, builder, counts, grow)


def encode(stage: Stage, builder: Builder) -> None:
    """`encode`: images or audio clips, whose tokens join the context."""
    items = _draw(stage.options, "items") or (lambda u: 1)  # noqa: ARG005
    each = draw_of(stage.options["tokens_per_item"])

    def counts(request: Request, flow: Flow, place: int) -> tuple[int, int, int]:  # noqa: ARG001
        luck = unit(flow.luck, place)
        number, size = items(luck), each(luck)
        return number, number * size, number * size * size

    def grow(request: Request, flow: Flow, luck: float) -> None:
        number, size = items(luck), each(luck)
        texts(lambda u: number, lambda u: size)(request, flow, luck)  # noqa: ARG005

    _serve(stage, builder, counts, grow, same_luck=True)


def tool(stage: Stage, builder: Builder) -> None:
    """`tool`: takes a drawn time, at a host or outside; its result joins the context."""
    latency = draw_of(stage.options["latency"])
    grow = result(_draw(stage.options, "result_tokens") or (lambda u: 0))  # noqa: ARG005
    if not stage.pool and not any(stage.kind in kinds for kinds in builder.accepts.values()):
        stage_set = builder.stage_set(stage.kind)
        builder.emit(Wait(builder.coordinator, stage_set, builder.place, latency, grow))
        return

    def counts(request: Request, flow: Flow, place: int) -> tuple[int, int, int]:  # noqa: ARG001
        return 1, 0, 0

    _serve(stage, builder, counts, grow, time=latency)


def _serve(
    stage: Stage,
    builder: Builder,
    counts: Counts,
    grow: Growth | None = None,
    *,
    time: Draw | None = None,
    same_luck: bool = False,
) -> None:
    pool = builder.service_pool(stage)
    builder.emit(
        ServiceJob(
            pool,
            pool.number_of(stage.kind),
            builder.stage_set(stage.kind),
            builder.place,
            counts,
            grow=grow,
            time=time,
            same_luck=same_luck,
        )
    )


def _draw(options: Mapping[str, Any], key: str) -> Draw | None:
    return draw_of(options[key]) if options.get(key) is not None else None


def _documents(count: int, options: Mapping[str, Any]) -> Growth:
    """Return what adds `count` documents to the context."""
    size, corpus = options["tokens_per_document"], _corpus(options)
    same = always(size)
    if same is not None and corpus is None:
        return text_of(count * same)
    return texts(lambda u: count, draw_of(size), corpus)  # noqa: ARG005


def _corpus(options: Mapping[str, Any]) -> Draw | None:
    """Return what draws the number of a document; None where each is its own."""
    return draw_of(options["corpus"]) if options.get("corpus") is not None else None
