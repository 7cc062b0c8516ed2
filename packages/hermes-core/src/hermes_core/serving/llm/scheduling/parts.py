"""What a scheduler is made of."""

from dataclasses import dataclass

from hermes_core.serving.llm.kv.exchange import Owner
from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.scheduling.batching import BatchPolicy
from hermes_core.serving.llm.scheduling.queues import WaitingQueue
from hermes_core.serving.llm.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class SchedulerParts:
    """Settings, memory, and those whom a scheduler asks and tells."""

    settings: EngineSettings
    kv_blocks: int
    layout: KvLayout
    window: int
    """Newest tokens that the attention of every layer sees; 0 for all."""
    policy: BatchPolicy
    queue: WaitingQueue
    owner: Owner
    exact: bool
    """Whether the decoding batch is walked over, step by step."""
