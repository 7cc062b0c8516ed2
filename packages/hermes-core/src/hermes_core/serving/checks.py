"""What engine settings must not say: contradictions are refused before the run, with the reason."""

from collections.abc import Iterator

from hermes_core.api.errors import InputError, Place, UnsupportedError
from hermes_core.serving.settings import EngineSettings


def check_settings(pool: str, settings: EngineSettings) -> None:
    """Raise InputError for the first setting of a pool's engine that cannot be, or that would change nothing."""
    for key, problem, remedy in unsupported(settings):
        raise UnsupportedError(problem, place=Place(path=f"pools.{pool}.engine.{key}"), remedy=remedy)
    for key, problem, remedy in contradictions(settings):
        raise InputError(problem, place=Place(path=f"pools.{pool}.engine.{key}"), remedy=remedy)


def unsupported(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    """Yield (key as a user writes it, problem, remedy) of what this version cannot simulate."""
    if settings.speculation is not None:
        yield "speculation", "speculative decoding is not supported yet", "Leave it out."


def contradictions(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    """Yield (key as a user writes it, problem, remedy) of what cannot be, or would change nothing."""
    yield from _sizes(settings)
    yield from _policies(settings)
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
    budget, seqs = settings.max_num_batched_tokens, settings.max_num_seqs
    if settings.batching == "chunked" and budget < seqs:
        yield (
            "max_num_batched_tokens",
            f"a budget of {budget} tokens a step cannot serve {seqs} sequences that decode one token each",
            "Raise max_num_batched_tokens to max_num_seqs, or lower max_num_seqs.",
        )
    if settings.kv_blocks is not None and settings.kv_blocks <= 1:
        yield "kv_blocks", f"{settings.kv_blocks} KV blocks hold nothing", "Give at least 2; one is never used."
    if not 0 < settings.gpu_memory_utilization <= 1:
        share = settings.gpu_memory_utilization
        yield "gpu_memory_utilization", f"{share} is not a share of memory", "Give a number above 0 and up to 1."
    if not 0 <= settings.watermark < 1:
        yield "watermark", f"{settings.watermark} is not a share of the blocks", "Give a number from 0 to below 1."
    if any(low >= high for low, high in zip(settings.graph_sizes, settings.graph_sizes[1:], strict=False)):
        yield "graph_sizes", "the sizes do not ascend", "Sort them, each once."


def _policies(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    if settings.aging_ns and settings.queue not in ("priority", "shortest_prompt"):
        yield (
            "aging",
            f"aging changes nothing in a queue ordered by {settings.queue}",
            "Leave it out, or set queue to priority or shortest_prompt.",
        )
    threshold = settings.long_prefill_token_threshold
    if threshold and settings.batching != "chunked":
        yield (
            "long_prefill_token_threshold",
            f"{settings.batching} batching does not cut prompts at a threshold",
            "Leave it out, or set batching to chunked.",
        )


def _clients(settings: EngineSettings) -> Iterator[tuple[str, str, str]]:
    admission = settings.admission
    if admission.kind == "token_bucket" and (admission.rate_per_s <= 0 or admission.burst < 1):
        yield "admission", "a token bucket needs a rate and a burst of at least 1", "Write rate: 10/s, burst: 5."
    if admission.kind == "queue_cap" and admission.max_waiting < 1:
        yield "admission", "a queue cap needs max_waiting", "Write max_waiting: 100."
    if settings.client_retries and not settings.client_timeout_ns and admission.kind == "always":
        yield (
            "client_retries",
            "nothing is ever tried again: nobody is shed and nobody times out",
            "Set client_timeout or admission, or leave it out.",
        )
    if 0 < settings.client_timeout_ns <= settings.front_end.request_ns:
        yield (
            "client_timeout",
            "clients give up before their requests have passed the front end",
            "Give a longer client_timeout.",
        )
