"""Which decoding batch an engine keeps."""

from hermes_core.serving.decode_batch import AggregateBatch, DecodeBatch
from hermes_core.serving.exact_batch import ExactBatch
from hermes_core.serving.kv_layout import KvLayout
from hermes_core.serving.settings import EngineSettings
from hermes_core.serving.speculative_batch import ExactSpeculativeBatch, SpeculativeBatch


def batch_of(settings: EngineSettings, layout: KvLayout, window: int, *, exact: bool) -> DecodeBatch:
    """Return the batch that a client's settings ask for; the slow twin if `exact`."""
    if settings.speculation is not None:
        speculative = ExactSpeculativeBatch if exact else SpeculativeBatch
        return speculative(layout, window, settings.speculation)
    return ExactBatch(layout, window) if exact else AggregateBatch(layout, window)
