"""Chooses the best hardware model that can price a deployment."""

from collections.abc import Sequence

from hermes_core.api.hardware import CompiledDeployment, Deployment, HardwareModel, OperatorPrice, StepShape

from hermes_hw.roofline import RooflineModel


class AutoModel:
    """The best price there is, from the first model of `candidates`, best first, that covers the deployment.

    Implements `hermes_core.api.HardwareModel`. The roofline covers everything, so it stands last.
    """

    def __init__(self, candidates: Sequence[HardwareModel] | None = None) -> None:
        self.candidates: Sequence[HardwareModel] = candidates or (RooflineModel(),)

    def compile(self, deployment: Deployment) -> CompiledDeployment:
        """Compile with the chosen model; see `HardwareModel.compile`."""
        return self.choose(deployment).compile(deployment)

    def breakdown(self, deployment: Deployment, shape: StepShape) -> Sequence[OperatorPrice]:
        """Price with the chosen model; see `HardwareModel.breakdown`."""
        return self.choose(deployment).breakdown(deployment, shape)

    def choose(self, deployment: Deployment) -> HardwareModel:  # noqa: ARG002 - candidates will look at it
        """Return the model that prices `deployment`."""
        return self.candidates[0]
