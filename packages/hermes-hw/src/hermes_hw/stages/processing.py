"""Stages of plain host code: tokenising before, detokenising after, guards and routers that run no model."""

from dataclasses import dataclass
from typing import Final

from hermes_core.api.errors import InputError
from hermes_core.api.stages import CompiledStage, StageDeployment
from hermes_core.api.time import FS_PER_NS

from hermes_hw.energy import active_power_w
from hermes_hw.stages.options import Options
from hermes_hw.stages.worker import LEAST_FS, NJ_PER_J, checked_device, femtos, fingerprint, share_of

_KNOWN: Final = ("ns_per_token", "us_per_request", "us_per_batch", "bytes_per_token", "cores")
_DEFAULTS: Final = {
    # ns a token and core, us a request.
    "preprocess": (1_000.0, 50.0),
    "postprocess": (2_500.0, 20.0),
    "guard": (50.0, 20.0),
    "route": (0.0, 20.0),
}
"""Assumptions, to be replaced by what you measure. Tokenising: byte-pair encoding in compiled code makes about a
million tokens a second and core (README of the tokenizers library: 1 GB of text in less than 20 s on a server's CPU).
Detokenising decodes token by token with a look back, and adds the answer's frame. Rules of guards: one pass of
pattern matching over the text, 4 bytes a token at 80 MB/s. The rest is Python's handling of a request."""
_BYTES_PER_TOKEN: Final = 64.0
"""Text, ids, offsets, and the look-ups' cache lines."""


@dataclass(frozen=True, slots=True)
class ProcessingModel:
    """`us_per_batch + us_per_request * items + ns_per_token * tokens` on one core. Implements `StageModel`."""

    base_fs: int
    item_fs: int
    token_fs: float
    bytes_per_token: float
    watts: float

    def price(self, jobs: int, items: int, tokens: int, pairs: int) -> tuple[int, int, int]:
        """Price one batch; see `StageModel.price`. `jobs` and `pairs` do not matter."""
        del jobs, pairs
        fs = max(self.base_fs + self.item_fs * items + round(self.token_fs * tokens), LEAST_FS)
        return fs, round(self.bytes_per_token * tokens), round(self.watts * fs * 1e-15 * NJ_PER_J)


def compile_processing(deployment: StageDeployment) -> CompiledStage:
    """Compile a stage of host code: `preprocess`, `postprocess`, and `guard` and `route` without a model.

    Options: `ns_per_token`, `us_per_request`, `us_per_batch` of one core, `bytes_per_token` moved, `cores` of one
    worker over which a batch is spread (1). Raises InputError for strange values and for a model, which none of
    these runs.
    """
    if deployment.stage not in _DEFAULTS:
        raise InputError(f"{deployment.stage}: not a stage of host code", remedy=f"Known: {', '.join(_DEFAULTS)}.")
    if deployment.model is not None:
        raise InputError(f"{deployment.stage}: takes no model, found {deployment.model!r}", remedy="Leave it out.")
    device = checked_device(deployment)
    options = Options(deployment.stage, deployment.options, _KNOWN)
    token_ns, request_us = _DEFAULTS[deployment.stage]
    token_ns = options.number("ns_per_token", token_ns)
    request_us = options.number("us_per_request", request_us)
    batch_us = options.number("us_per_batch", 0.0)
    nbytes = options.number("bytes_per_token", _BYTES_PER_TOKEN)
    cores = options.count("cores", 1)
    units = device.compute_units * deployment.devices
    share_of(device, -(-deployment.workers // deployment.devices))
    if cores * deployment.workers > units:
        raise InputError(
            f"{deployment.stage}: {deployment.workers} workers of {cores} cores are more than the {units} of "
            f"{deployment.devices} x {device.name}",
            remedy=f"Use at most {max(units // cores, 1)} workers of {min(cores, units)} cores.",
        )
    active_w = active_power_w(device) / device.compute_units * cores
    model = ProcessingModel(
        base_fs=femtos(batch_us * 1e-6) if batch_us else 0,
        item_fs=round(request_us * 1000 * FS_PER_NS / cores),
        token_fs=token_ns * FS_PER_NS / cores,
        bytes_per_token=nbytes,
        watts=active_w,
    )
    notes = []
    if not {"ns_per_token", "us_per_request"} & deployment.options.keys():
        notes.append(
            f"{deployment.stage}: {token_ns:g} ns a token and {request_us:g} us a request are assumptions: measure "
            "yours and give ns_per_token and us_per_request."
        )
    content = {"base_fs": model.base_fs, "item_fs": model.item_fs, "token_fs": model.token_fs, "bytes": nbytes}
    return CompiledStage(
        deployment=deployment,
        model=model,
        memory_bandwidth_bytes_per_s=device.memory_bandwidth_bytes_per_s * deployment.devices,
        idle_power_w=device.idle_w * deployment.devices,
        price_usd_per_h=device.price_usd_per_h * deployment.devices,
        fingerprint=fingerprint(deployment, device, {**content, "cores": cores}),
        source_share={"analytical": 1.0},
        notes=notes,
    )
