"""The hardware model `fitted`: the roofline with constants from a calibration file."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from hermes_core.api.errors import InputError, Place
from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape

from hermes_hw.compiler import breakdown_parts, compile_deployment
from hermes_hw.direct import DirectPrices
from hermes_hw.fitted.document import PLAN, Calibration, read_calibration
from hermes_hw.lookup import normalised
from hermes_hw.operators import EXTRAPOLATED, INTERPOLATED, Operator, Price, Pricer
from hermes_hw.options import reading
from hermes_hw.resolve import Resolved, resolve
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.steps import AffineStepModel

_BATCH_SIZES: Final = ("m", "tokens", "batch", "sequences")
"""Sizes of an operator that grow with the batch, the first present counts."""


@dataclass(frozen=True, slots=True)
class FittedPricer:
    """The roofline, its prices marked by whether such batches were observed. Implements `Pricer`."""

    roofline: Pricer
    most_seqs: float
    """Largest batch that prices were fitted to; 0 for none like these."""

    def price(self, operator: Operator) -> Price:
        """Return what one run of `operator` costs; see `Pricer.price`."""
        price = self.roofline.price(operator)
        size = next((operator.sizes[name] for name in _BATCH_SIZES if name in operator.sizes), None)
        known = np.zeros(price.seconds.shape, bool) if size is None else np.asarray(size <= self.most_seqs)
        if size is None and self.most_seqs:
            known = ~known
        source = np.where(known, INTERPOLATED, EXTRAPOLATED).astype(np.int8)
        return dataclasses.replace(price, source=np.broadcast_to(source, price.seconds.shape))


class FittedModel:
    """Prices by the roofline with constants fitted to observations. Implements `hermes_core.api.HardwareModel`.

    Options: `calibration` (the path of a file that `hermes calibrate` wrote), and the common ones. Prices of the
    deployment that was observed are "interpolated" up to its largest batch; all others are "extrapolated".
    """

    def compile(self, deployment: Deployment) -> CompiledDeployment:
        """Compile `deployment`; see `HardwareModel.compile`.

        Raises as the roofline does, and InputError for a calibration that is absent, unsound or of another device.
        """
        calibration = _calibration(deployment)
        resolved, direct, notes = _prepared(deployment, calibration)
        steps = AffineStepModel(direct, deployment)
        content = {"calibration": dict(calibration.efficiency), "most_seqs": calibration.most_seqs}
        return compile_deployment(deployment, resolved, direct, steps, kind="fitted", content=content, notes=notes)

    def breakdown(self, deployment: Deployment, shape: StepShape) -> Sequence[OperatorPrice]:
        """Price one step operator by operator; see `HardwareModel.breakdown`."""
        _, direct, _ = _prepared(deployment, _calibration(deployment))
        return breakdown_parts(direct, AffineStepModel(direct, deployment), shape)


def _calibration(deployment: Deployment) -> Calibration:
    path = deployment.options.get("calibration")
    if path is None:
        raise InputError(
            "the hardware model fitted needs a calibration",
            place=Place(path="hardware.kind"),
            remedy="Give options.calibration: PATH of a file that `hermes calibrate` wrote.",
        )
    with reading("calibration"):
        return read_calibration(Path(str(path)))


def _prepared(deployment: Deployment, calibration: Calibration) -> tuple[Resolved, DirectPrices, tuple[str, ...]]:
    """Resolve `deployment` with the fitted constants under those that its own options give."""
    own = deployment.options.get("efficiency", {})
    laid = {**calibration.efficiency, **own} if isinstance(own, dict) else own
    options = {**deployment.options, "efficiency": laid}
    resolved = resolve(dataclasses.replace(deployment, options=options), ("calibration",))
    if normalised(resolved.device.name) != normalised(calibration.device):
        raise InputError(
            f"{calibration.place} was fitted on {calibration.device}, not on {resolved.device.name}",
            remedy="Calibrate on runs of this device.",
        )
    same = normalised(resolved.graph.model.name) == normalised(calibration.model)
    same &= all(getattr(deployment, key) == value for key, value in calibration.plan.items() if key in PLAN)
    batches = f"batches up to {calibration.most_seqs:.0f}"
    error = f"mean error {calibration.error_percent:.1f}%"
    notes = [f"Constants fitted to observations of {calibration.model} ({batches}); {error}."]
    if not same:
        notes.append("The calibration is of another model or plan: all prices are extrapolated.")
    roofline = RooflinePricer(resolved.device, resolved.efficiency)
    pricer = FittedPricer(roofline, calibration.most_seqs if same else 0.0)
    rows = resolved.efficiency.mixed_rows
    direct = DirectPrices(resolved.graph, resolved.device, resolved.efficiency, pricer, rows=rows)
    return resolved, direct, tuple(notes)
