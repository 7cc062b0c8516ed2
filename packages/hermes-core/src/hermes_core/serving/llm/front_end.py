"""The API server in front of an engine: what it does for a request before the engine sees it."""

from heapq import heapify, heapreplace

from hermes_core.api.time import Nanos
from hermes_core.serving.llm.settings import FrontEndSettings


class FrontEnd:
    """Workers that take requests in, first come first served: HTTP, tokenising, handing over to the engine.

    With `workers` of 0 requests pass side by side, however many come.
    """

    __slots__ = ("_free_ns", "_per_token_ns", "_request_ns")

    def __init__(self, settings: FrontEndSettings) -> None:
        self._request_ns = settings.request_ns
        self._per_token_ns = settings.per_prompt_token_ns
        self._free_ns = [0] * settings.workers
        """When each worker is done with what it has."""
        heapify(self._free_ns)

    def delay_ns(self, prompt_tokens: int, now: Nanos) -> Nanos:
        """Take in a request that has come; return how long it takes until the engine has it, waiting included."""
        work_ns = self._request_ns + self._per_token_ns * prompt_tokens
        if not self._free_ns:
            return work_ns
        begin_ns = self._free_ns[0]
        if begin_ns < now:
            begin_ns = now
        end_ns = begin_ns + work_ns
        heapreplace(self._free_ns, end_ns)
        return end_ns - now
