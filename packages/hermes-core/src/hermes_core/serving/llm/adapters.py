"""LoRA adapters of one engine: which are in use, which lie in memory, and what that costs."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any, Final

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import AdapterPrices
from hermes_core.api.time import FS_PER_NS, NS_PER_S, Femtos
from hermes_core.serving.llm.settings import EngineSettings, LoraSettings

_PRICED: Final = ("size_bytes", "per_step_ns", "per_adapter_ns", "per_token_and_rank_fs")


class AdapterSlots:
    """At most `max_loras` adapters work in a step; `max_cpu_loras` are kept in host memory, the rest in storage.

    vLLM 0.33: a waiting request whose adapter would be one too many is passed over, and those behind it are looked at
    (v1/core/sched/scheduler.py); slots and host memory forget the least recently used (lora/worker_manager.py,
    lora/model_manager.py); copying to a slot holds up the step that needs it.
    """

    __slots__ = (
        "_host",
        "_max_host",
        "_max_loras",
        "_per_adapter_fs",
        "_per_token_fs",
        "_slots",
        "_step_fs",
        "_to_device_fs",
        "_to_host_fs",
        "due_fs",
        "in_use",
        "loads",
    )

    def __init__(self, settings: LoraSettings) -> None:
        self._max_loras = settings.max_loras
        self._max_host = settings.max_cpu_loras or settings.max_loras
        size_bytes = settings.size_bytes or 0
        self._to_device_fs = _transfer_fs(size_bytes, settings.load_bandwidth_bytes_per_s)
        self._to_host_fs = _transfer_fs(size_bytes, settings.storage_bandwidth_bytes_per_s)
        self._step_fs = (settings.per_step_ns or 0) * FS_PER_NS
        self._per_adapter_fs = (settings.per_adapter_ns or 0) * FS_PER_NS
        self._per_token_fs = (settings.per_token_and_rank_fs or 0) * settings.rank
        self._slots: OrderedDict[int, None] = OrderedDict()
        """Adapters on the device, the least recently used first."""
        self._host: OrderedDict[int, None] = OrderedDict()
        self.in_use: dict[int, int] = {}
        """Running sequences of each adapter that has any."""
        self.due_fs: Femtos = 0
        """Loading that the next step has to wait for."""
        self.loads = 0
        """Copies to a slot."""

    def free_for(self, adapter: int) -> bool:
        """Return whether a sequence with this adapter (0 for none) may enter the running list."""
        return not adapter or adapter in self.in_use or len(self.in_use) < self._max_loras

    def entered(self, adapter: int) -> None:
        """Count a sequence that has been admitted, and load its adapter if it is not there."""
        if not adapter:
            return
        self.in_use[adapter] = self.in_use.get(adapter, 0) + 1
        if adapter in self._slots:
            self._slots.move_to_end(adapter)
        else:
            self._load(adapter)
        self._host[adapter] = None
        self._host.move_to_end(adapter)
        if len(self._host) > self._max_host:
            self._host.popitem(last=False)

    def left(self, adapter: int) -> None:
        """Count a sequence no more that has left the running list."""
        if adapter:
            count = self.in_use[adapter] - 1
            if count:
                self.in_use[adapter] = count
            else:
                del self.in_use[adapter]

    def step_fs(self, adapters: dict[int, int]) -> Femtos:
        """Return how much longer a step lasts with so many tokens of each of these adapters."""
        present = sum(tokens > 0 for tokens in adapters.values())
        if not present:
            return 0
        return self._step_fs + self._per_adapter_fs * present + self._per_token_fs * sum(adapters.values())

    def _load(self, adapter: int) -> None:
        if len(self._slots) >= self._max_loras:
            unused = next(one for one in self._slots if one not in self.in_use)
            del self._slots[unused]
        self.loads += 1
        self._slots[adapter] = None
        self.due_fs += self._to_device_fs
        if adapter not in self._host:
            self.due_fs += self._to_host_fs


def priced(settings: EngineSettings, prices: AdapterPrices | None) -> EngineSettings:
    """Return settings in which what the user left open about adapters is as the hardware model says.

    Raises InputError where neither says it.
    """
    lora = settings.lora
    if lora is None:
        return settings
    open_keys = [key for key in _PRICED if getattr(lora, key) is None]
    if not open_keys:
        return settings
    if prices is None:
        raise InputError(
            "the hardware model does not price adapters of this model",
            remedy="Give size, per_step, per_adapter and per_token_and_rank of engine.lora.",
        )
    found = {
        "size_bytes": prices.size_bytes * lora.rank,
        "per_step_ns": prices.step_fs // FS_PER_NS,
        "per_adapter_ns": prices.read_fs * lora.rank // FS_PER_NS,
        "per_token_and_rank_fs": prices.token_fs,
    }
    changes: dict[str, Any] = {key: found[key] for key in open_keys}
    return replace(settings, lora=replace(lora, **changes))


def _transfer_fs(size_bytes: int, bandwidth_bytes_per_s: float) -> Femtos:
    return round(size_bytes / bandwidth_bytes_per_s * NS_PER_S) * FS_PER_NS if bandwidth_bytes_per_s else 0
