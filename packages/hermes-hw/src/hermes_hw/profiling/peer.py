"""One of the processes that measure collectives: takes orders, a JSON object a line, and answers each with one.

`python -m hermes_hw.profiling.peer RANK WORLD DEVICE FILE`: the processes of all ranks find one another by `FILE`.
Orders: `{"kind", "ranks", "bytes"}` says what to run from now on, `{"calls"}` times so many calls of it. Only the ranks
that take part are ordered. `hermes_hw.profiling.peers` gives the orders.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, TextIO

from hermes_hw.dtypes import DTYPES
from hermes_hw.profiling.plan import ProfilePlan
from hermes_hw.profiling.torch_backend import TorchBackend

SILENCE_S: Final = 60.0
"""After which a rank that hears nothing of the others gives up."""


class Peer:
    """One rank."""

    def __init__(self, backend: TorchBackend, distributed: Any, rank: int, world: int, meeting: str) -> None:
        self._backend = backend
        self._distributed = distributed
        distributed.init_process_group(
            "nccl" if backend.cuda else "gloo",
            init_method=f"file://{meeting}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=SILENCE_S),
        )
        # All ranks make all groups, in the same order.
        self._groups = {ranks: distributed.new_group(list(range(ranks))) for ranks in ProfilePlan().beside(world).ranks}
        self._call: Callable[[int], object] = lambda _: None
        self._works: dict[int, Callable[[], object]] = {}

    def answer(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is ordered, and return what came of it."""
        try:
            if "calls" in order:
                return {"seconds": self._seconds(int(order["calls"]))}
            self._works.clear()
            self._call = self._collective(order["kind"], order["ranks"], order["bytes"])
        except (MemoryError, RuntimeError) as error:
            refusal = "not enough memory" if self._backend.memory_error(error) else str(error).strip().splitlines()[0]
            return {"refused": refusal}
        return {}

    def _seconds(self, calls: int) -> float:
        if calls not in self._works:
            self._call(0)  # what libraries do once cannot be captured
            self._backend.wait()
            self._works[calls] = self._backend.repeated(self._call, calls)
        # All ranks come out of one call together: none waits in those that are timed for another to begin.
        self._call(0)
        return self._backend.seconds(self._works[calls]) / calls

    def _collective(self, kind: str, ranks: int, nbytes: int) -> Callable[[int], object]:
        """Return what runs a collective. Each rank has or gets all bytes; its part is one of `ranks`."""
        d, group = self._distributed, self._groups[ranks]
        elements = int(nbytes / DTYPES[self._backend.dtype].bytes)
        whole = self._backend.array(elements)
        if kind == "collective.all_reduce":
            return lambda _: d.all_reduce(whole, group=group)
        if kind == "collective.all_to_all":
            other = self._backend.array(elements)
            return lambda _: d.all_to_all_single(other, whole, group=group)
        part = self._backend.array(elements // ranks)
        if kind == "collective.all_gather":
            return lambda _: d.all_gather_into_tensor(whole, part, group=group)
        return lambda _: d.reduce_scatter_tensor(part, whole, group=group)


def obey(peer: Peer, orders: TextIO, answers: TextIO) -> None:
    """Answer order after order until there are no more."""
    for line in orders:
        print(json.dumps(peer.answer(json.loads(line))), file=answers, flush=True)


def main() -> None:
    """Join the others, say so, and obey."""
    rank, world, device, meeting = sys.argv[1:]
    # Libraries print what they please: that goes to standard error.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        import torch.distributed  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - an extra

        peer = Peer(TorchBackend(device), torch.distributed, int(rank), int(world), meeting)
        print("{}", file=answers, flush=True)
        obey(peer, sys.stdin, answers)
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
