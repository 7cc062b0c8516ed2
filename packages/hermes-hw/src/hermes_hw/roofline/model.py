"""The roofline hardware model: datasheet figures times efficiency curves, operator by operator."""

from collections.abc import Sequence

from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape

from hermes_hw.compiler import breakdown_parts, compile_deployment
from hermes_hw.direct import DirectPrices
from hermes_hw.resolve import Resolved, resolve
from hermes_hw.roofline.pricer import RooflinePricer
from hermes_hw.steps import AffineStepModel


class RooflineModel:
    """Prices any model on any device from its datasheet. Implements `hermes_core.api.HardwareModel`.

    Options: those of `hermes_hw.resolve.COMMON_OPTIONS`.
    """

    def compile(self, deployment: Deployment) -> CompiledDeployment:
        """Compile `deployment`; see `HardwareModel.compile`.

        Raises InputError for names, formats, degrees and options that cannot be, DoesNotFitError when the weights
        leave no room for KV cache.
        """
        resolved = resolve(deployment)
        direct = _direct(resolved)
        return compile_deployment(deployment, resolved, direct, AffineStepModel(direct, deployment), kind="roofline")

    def breakdown(self, deployment: Deployment, shape: StepShape) -> Sequence[OperatorPrice]:
        """Price one step operator by operator; see `HardwareModel.breakdown`.

        The durations sum to the step's; flop, bytes and bound are of one device.
        """
        direct = _direct(resolve(deployment))
        return breakdown_parts(direct, AffineStepModel(direct, deployment), shape)


def _direct(resolved: Resolved) -> DirectPrices:
    pricer = RooflinePricer(resolved.device, resolved.efficiency)
    rows = resolved.efficiency.mixed_rows
    return DirectPrices(resolved.graph, resolved.device, resolved.efficiency, pricer, rows=rows)
