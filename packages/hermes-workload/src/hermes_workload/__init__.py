"""Request traffic for LLM serving: generators, trace readers and writers, fits.

from hermes_workload import open_workload

source = open_workload({"kind": "named", "name": "azure-conversation", "requests": 1000}, seed=7)
for batch in source.batches():
    print(batch.arrival_ns, batch.prompt_tokens, batch.output_tokens)
"""

from hermes_workload.batch import RequestBatch
from hermes_workload.errors import MissingExtraError, WorkloadError
from hermes_workload.registry import open_workload
from hermes_workload.source import RequestSource, Source
from hermes_workload.streams import stream

__all__ = ["MissingExtraError", "RequestBatch", "RequestSource", "Source", "WorkloadError", "open_workload", "stream"]
