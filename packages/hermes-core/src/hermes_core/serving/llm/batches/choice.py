"""Which decoding batch an engine keeps."""

from hermes_core.serving.llm.batches.decode import AggregateBatch, DecodeBatch
from hermes_core.serving.llm.batches.exact import ExactBatch
from hermes_core.serving.llm.batches.speculative import ExactSpeculativeBatch, SpeculativeBatch
from hermes_core.serving.llm.kv.layout import KvLayout
from hermes_core.serving.llm.settings import EngineSettings


def batch_of(settings: EngineSettings, layout: KvLayout, window: int, *, exact: bool) -> DecodeBatch:
    """Return the batch that a client's settings ask for; the slow twin if `exact`."""
    if settings.speculation is not None:
        speculative = ExactSpeculativeBatch if exact else SpeculativeBatch
        return speculative(layout, window, settings.speculation)
    return ExactBatch(layout, window) if exact else AggregateBatch(layout, window)
