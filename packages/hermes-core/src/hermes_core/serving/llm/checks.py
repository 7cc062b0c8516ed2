"""What engine settings must not say: contradictions are refused before the run, with the reason."""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import Final

from hermes_core.api.errors import InputError, Place, UnsupportedError
from hermes_core.api.plugins import is_built_in
from hermes_core.api.time import FS_PER_NS, NS_PER_S
from hermes_core.serving.llm.scheduling.batching import BATCH_POLICIES
from hermes_core.serving.llm.scheduling.queues import QUEUE_ORDERS
from hermes_core.serving.llm.settings import AdmissionSettings, EngineSettings

_LONGEST_NS: Final = 100 * NS_PER_S
"""More of one cause in a step is a mistake: thousands of seconds do not fit the femtoseconds of the record."""


def check_settings(pool: str, settings: EngineSettings, stages: SequenceOf[str] = (), adapters: int = 0) -> None:
    """Raise InputError for the first setting of a pool's engine that cannot be, or that would change nothing.

    `stages` are the stage kinds that the pool accepts (none for those of any pool), `adapters` how many the workload
    has.
    """
    for key, problem, remedy in unsupported(settings):
        raise UnsupportedError(problem, place=Place(path=f"pools.{pool}.engine.{key}"), remedy=remedy)
    for key, problem, remedy in (*contradictions(settings, stages), *adapters_fit(settings, adapters)):
        raise InputError(problem, place=Place(path=f"pools.{pool}.engine.{key}"), remedy=remedy)


def unsupported(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:  # noqa: ARG001 - the callers' port
    """Yield (key as a user writes it, problem, remedy) of what this version cannot simulate."""
    return iter(())


def contradictions(settings: EngineSettings, stages: SequenceOf[str] = ()) -> Iterator[tuple[str, str, str]]:
    """Yield (key as a user writes it, problem, remedy) of what cannot be, or would change nothing."""
    yield from _sizes(settings)
    yield from _lists(settings)
    yield from _lengths(settings)
    yield from _policies(settings)
    yield from _halves(settings, stages)
    yield from _speculation(settings)
    yield from _lora(settings)
    yield from _structured(settings)
    yield from _clients(settings)


def _sizes(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    sizes = {
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "block_size": settings.block_size_tokens,
    }
    for key, value in sizes.items():
        if value < 1:
            yield key, f"{value} is not a size", "Give at least 1."
    budget, seqs, each = settings.max_num_batched_tokens, settings.max_num_seqs, settings.tokens_per_decode
    if settings.batching == "chunked" and 0 < budget < seqs * each:
        tokens = "one token" if each == 1 else f"{each} tokens, drafts among them,"
        yield (
            "max_num_batched_tokens",
            f"a budget of {budget} tokens a step cannot serve {seqs} sequences that decode {tokens} each",
            f"Raise max_num_batched_tokens to {seqs * each}, or lower max_num_seqs.",
        )
    if settings.max_model_len is not None and settings.max_model_len < 1:
        yield "max_model_len", f"{settings.max_model_len} is not a length", "Give at least 1, or leave it out."
    if settings.kv_blocks is not None and settings.kv_blocks <= 1:
        yield "kv_blocks", f"{settings.kv_blocks} KV blocks hold nothing", "Give at least 2; one is never used."
    if not 0 < settings.gpu_memory_utilization <= 1:
        share = settings.gpu_memory_utilization
        yield "gpu_memory_utilization", f"{share} is not a share of memory", "Give a number above 0 and up to 1."
    if not 0 <= settings.watermark < 1:
        yield "watermark", f"{settings.watermark} is not a share of the blocks", "Give a number from 0 to below 1."


def _lists(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    if any(size < 1 for size in settings.graph_sizes):
        yield "graph_sizes", f"{min(settings.graph_sizes)} is not a size of a batch", "Give sizes of at least 1."
    elif any(low >= high for low, high in zip(settings.graph_sizes, settings.graph_sizes[1:], strict=False)):
        yield "graph_sizes", "the sizes do not ascend", "Sort them, each once."
    if any(number < 1 for number in settings.first_use_multiples):
        yield "first_use_multiples", "0 has no multiples to count", "Give numbers of at least 1."


def _lengths(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    """Times that are part of a step, each at its most."""
    seqs = settings.max_num_seqs
    times = {
        "host_base": settings.host_base_ns,
        "host_per_seq": settings.host_per_seq_ns * seqs,
        "first_use": settings.first_use_ns,
    }
    if (speculation := settings.speculation) is not None:
        passes = speculation.draft_tokens
        times["speculation.draft_cost"] = (speculation.draft_cost_fs or 0) * passes // FS_PER_NS
        times["speculation.draft_cost_per_seq"] = speculation.draft_cost_per_seq_fs * passes * seqs // FS_PER_NS
    if (lora := settings.lora) is not None:
        tokens = settings.max_num_batched_tokens * lora.rank
        times["lora.per_step"] = lora.per_step_ns or 0
        times["lora.per_adapter"] = (lora.per_adapter_ns or 0) * lora.max_loras
        times["lora.per_token_and_rank"] = (lora.per_token_and_rank_fs or 0) * tokens // FS_PER_NS
    if (structured := settings.structured_output) is not None:
        times["structured_output.per_step"] = structured.per_step_ns
        times["structured_output.per_seq"] = structured.per_seq_ns * seqs
    for key, time_ns in times.items():
        if time_ns > _LONGEST_NS:
            yield (
                key,
                f"a step could take {time_ns / NS_PER_S:,.0f} s of it alone",
                "Check the unit: us and ms are usual.",
            )


def _policies(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    if settings.aging_ns and settings.queue not in ("priority", "shortest_prompt"):
        yield (
            "aging",
            f"aging changes nothing in a queue ordered by {settings.queue}",
            "Leave it out, or set queue to priority or shortest_prompt.",
        )
    for key in ("first_use_at", "first_use_multiples"):
        if getattr(settings, "first_use_at_tokens" if key == "first_use_at" else key) and not settings.first_use_ns:
            yield key, "it says of which steps the first lasts longer, and not how much", "Give first_use, as in 0.9 s."
    balance = settings.prompt_balance
    if balance is not None and balance.timeout_steps < 1:
        yield (
            "prompt_balance.timeout_steps",
            f"{balance.timeout_steps} steps are no time to wait for other ranks' prompts",
            "Give at least 1, or leave prompt_balance out.",
        )
    threshold = settings.long_prefill_token_threshold
    if threshold and settings.batching != "chunked":
        yield (
            "long_prefill_token_threshold",
            f"{settings.batching} batching does not cut prompts at a threshold",
            "Leave it out, or set batching to chunked.",
        )
    chosen = ((BATCH_POLICIES, settings.batching), (QUEUE_ORDERS, settings.queue))
    if settings.options and all(is_built_in(*one) for one in chosen):
        # None of our own takes any.
        unread = ", ".join(sorted(map(str, settings.options)))
        yield (
            "options",
            f"neither {settings.batching} batching nor a queue ordered by {settings.queue} reads {unread}",
            "Leave them out, or name a policy of your own that reads them.",
        )


def _halves(settings: EngineSettings, stages: SequenceOf[str]) -> Iterator[tuple[str, str, str]]:
    """Policies for one half of a disaggregated deployment."""
    for policy, own, other in (("prefill_only", "prefill", "decode"), ("decode_only", "decode", "prefill")):
        if settings.batching == policy and stages and (other in stages or own not in stages):
            yield (
                "batching",
                f"{policy} batching never serves {other}, and the pool accepts {' and '.join(stages)}",
                f"Write `stages: [{own}]`, and another pool for {other}; or take another policy.",
            )
    if settings.prompt_balance is not None and tuple(stages) == ("decode",):
        yield (
            "prompt_balance",
            "ranks wait for one another's prompts, and the pool accepts decode alone",
            "Leave it out, or give it to the pool for prefill.",
        )


def _speculation(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    speculation = settings.speculation
    if speculation is None:
        return
    if speculation.draft_tokens < 1:
        yield (
            "speculation.draft_tokens",
            f"with {speculation.draft_tokens} draft tokens there is nothing to verify",
            "Give at least 1, or leave speculation out.",
        )
    given = speculation.acceptance
    if not given or any(not 0 <= share <= 1 for share in given):
        shown = ", ".join(map(str, given)) or "nothing"
        yield (
            "speculation.acceptance",
            f"{shown} is not a list of probabilities",
            "Give one from 0 to 1 for each position.",
        )
    elif len(given) > max(1, speculation.draft_tokens):
        yield (
            "speculation.acceptance",
            f"{len(given)} acceptance probabilities for {speculation.draft_tokens} draft tokens",
            "Give at most one for each draft token.",
        )
    if speculation.draft_model is not None and speculation.method != "draft_model":
        yield (
            "speculation.draft_model",
            f"a draft_model and method {speculation.method} exclude one another",
            "Leave draft_model out and give draft_cost, or set method: draft_model.",
        )
    elif speculation.draft_model is not None and speculation.costs_given:
        yield (
            "speculation",
            "what drafts is priced twice: by draft_model, and by draft_cost or draft_cost_per_seq",
            "Leave one of them out.",
        )
    if settings.asynchronous_scheduling and speculation.method == "ngram" and settings.preset.startswith("vllm"):
        yield (
            "speculation",
            "n-grams are looked up in tokens that a step planned ahead does not have yet",
            "Set asynchronous_scheduling: false, as vLLM does.",
        )


def _lora(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    lora = settings.lora
    if lora is None:
        return
    if lora.max_loras < 1 or lora.rank < 1:
        yield (
            "lora.max_loras" if lora.max_loras < 1 else "lora.rank",
            f"{min(lora.max_loras, lora.rank)}: an engine with adapters has a slot and a rank",
            "Give max_loras and rank of at least 1.",
        )
    if 0 < lora.max_cpu_loras < lora.max_loras:
        yield (
            "lora.max_cpu_loras",
            f"max_cpu_loras {lora.max_cpu_loras} is below the {lora.max_loras} slots that are filled from there",
            "Raise max_cpu_loras to max_loras, or leave it out.",
        )
    if lora.max_loras > settings.max_num_seqs:
        yield (
            "lora.max_loras",
            f"{lora.max_loras} slots for adapters of at most {settings.max_num_seqs} sequences",
            "Lower max_loras to max_num_seqs.",
        )


def adapters_fit(settings: EngineSettings, adapters: int) -> Iterator[tuple[str, str, str]]:
    """Yield (key, problem, remedy) when an engine cannot serve a workload with so many adapters."""
    if not adapters:
        return
    if settings.lora is None:
        yield "lora", f"the workload has {adapters} adapters, and the engine none", "Add `lora: {max_loras: 4}`."
    elif not settings.lora.on_demand and adapters > settings.lora.max_loras:
        yield (
            "lora",
            f"{adapters} adapters for {settings.lora.max_loras} slots that are filled once",
            "Raise max_loras, or set on_demand: true.",
        )


def _structured(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    structured = settings.structured_output
    if structured is None:
        return
    if not 0 < structured.share <= 1:
        yield (
            "structured_output.share",
            f"{structured.share} is not a share of the requests",
            "Give one above 0, up to 1.",
        )
    if structured.grammars < 1:
        yield "structured_output.grammars", "0: answers follow at least one grammar", "Give grammars of at least 1."


def _clients(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    admission = settings.admission
    if admission.kind == "token_bucket" and (admission.rate_per_s <= 0 or admission.burst < 1):
        yield "admission", "a token bucket needs a rate and a burst of at least 1", "Write rate: 10/s, burst: 5."
    if admission.kind == "queue_cap" and admission.max_waiting < 1:
        yield "admission", "a queue cap needs max_waiting", "Write max_waiting: 100."
    yield from _unread(admission)
    if settings.client_retries and not settings.client_timeout_ns and admission.kind == "always":
        yield (
            "client_retries",
            "nothing is ever tried again: nobody is shed and nobody times out",
            "Set client_timeout or admission, or leave it out.",
        )
    front_end = settings.front_end
    if front_end.workers < 0 or (front_end.workers and not (front_end.request_ns or front_end.per_prompt_token_ns)):
        yield (
            "front_end",
            f"{front_end.workers} workers that take no time for a request",
            "Give `request` or `per_prompt_token`, or leave workers out.",
        )
    if 0 < settings.client_timeout_ns <= settings.front_end.request_ns:
        yield (
            "client_timeout",
            "clients give up before their requests have passed the front end",
            "Give a longer client_timeout.",
        )


def _unread(admission: AdmissionSettings) -> Iterator[tuple[str, str, str]]:
    """Settings of an admission that its kind does not read."""
    kind = admission.kind
    bucket, cap = kind == "token_bucket", kind == "queue_cap"
    given = (
        ("rate", bucket, admission.rate_per_s > 0, "token_bucket"),
        ("burst", bucket, admission.burst != AdmissionSettings().burst, "token_bucket"),
        ("max_waiting", cap, admission.max_waiting > 0, "queue_cap"),
        ("shed_classes", bucket or cap, bool(admission.shed_classes), "token_bucket or queue_cap"),
    )
    if bucket or cap or kind == "always":
        for key, read, present, kinds in given:
            if present and not read:
                yield (
                    f"admission.{key}",
                    f"admission of kind {kind} does not read {key}",
                    f"Leave it out, or set kind: {kinds}.",
                )
