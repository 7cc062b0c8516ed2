"""The hardware model `remote`: asks a vendor's service before the run, so that the run asks nobody."""

import dataclasses
import json
import sys
from collections.abc import Sequence

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import CompiledDeployment, Deployment, OperatorPrice, StepShape

from hermes_hw.client import Binding, DiskCache, Service, ServiceDescription, Statistics
from hermes_hw.client.description import OPERATOR, STEP
from hermes_hw.models.catalogue import find_model
from hermes_hw.models.heads import HEADS
from hermes_hw.remote.facts import local_deployment, served_model
from hermes_hw.remote.operators import compile_operators, operator_breakdown
from hermes_hw.remote.settings import RemoteSettings, settings_of
from hermes_hw.remote.whole import compile_steps, step_breakdown
from hermes_hw.remote.work import Work
from hermes_hw.resolve import resolve


class RemoteModel:
    """Prices deployments by a service of hermes.hw.v1. Implements `hermes_core.api.HardwareModel`.

    The service stands under `devices.NAME.remote` of a scenario, or in the options: `command`, `address` or `python`,
    with `config`, `seed`, `ask`, `outside`, `fallback`, `cache`, `timeout_ns`, `tls`, `token_file`, `token_env`,
    `insecure`; see `RemoteSettings`. Everything is asked while compiling; a process that was launched has ended when
    that is done.
    """

    def compile(self, deployment: Deployment) -> CompiledDeployment:
        """Compile `deployment`; see `HardwareModel.compile`.

        Raises as the roofline does, InputError for settings that cannot be and shapes that the service refuses, and
        ServiceError when the service fails.
        """
        settings = settings_of(deployment)
        with Service(settings.target, tell=_tell) as service:
            clock = service.clock
            began = clock.now_s()
            work = self._work(service, settings, deployment)
            try:
                whole = _asks_steps(settings, service.description)
                if whole and deployment.options.get("part") in HEADS:
                    raise InputError(f"hardware service {settings.target.name} prices whole steps, none of a head")
                build = compile_steps if whole else compile_operators
                compiled = build(work)
            finally:
                work.close()
            stats = service.stats
            wall_s = {
                "launch": stats.launch_s,
                "service": stats.waiting_s,
                "compile": clock.now_s() - began - stats.waiting_s,
            }
            return dataclasses.replace(
                compiled,
                deployment=deployment,
                wall_s=wall_s,
                notes=(*compiled.notes, *_notes(service, settings, stats)),
            )

    def breakdown(self, deployment: Deployment, shape: StepShape) -> Sequence[OperatorPrice]:
        """Price one step operator by operator, or as a whole where the service does so; asks the service."""
        settings = settings_of(deployment)
        with Service(settings.target, tell=_tell) as service:
            work = self._work(service, settings, deployment)
            try:
                build = step_breakdown if _asks_steps(settings, service.description) else operator_breakdown
                return build(work, shape)
            finally:
                work.close()

    def _work(self, service: Service, settings: RemoteSettings, deployment: Deployment) -> Work:
        description = service.description
        local = local_deployment(deployment, description, roofline=settings.fallback == "roofline")
        config = deployment.model_config
        if config is None:
            config = find_model(deployment.model).config
        served = served_model(deployment, json.dumps(config, sort_keys=True))
        cache = DiskCache(settings.cache) if settings.cache is not None else None
        binding = Binding(config=settings.config, served=served, seed=settings.seed)
        return Work(service, settings, local, resolve(local), binding, cache)


def _asks_steps(settings: RemoteSettings, description: ServiceDescription) -> bool:
    wanted = {"operators": OPERATOR, "steps": STEP}.get(settings.ask)
    if wanted is not None and wanted not in description.capabilities:
        raise InputError(
            f"hardware service {settings.target.name} prices no {settings.ask}",
            remedy=f"It prices {', '.join(description.capabilities)}; leave out `ask`.",
        )
    return (wanted or (STEP if STEP in description.capabilities else OPERATOR)) == STEP


def _notes(service: Service, settings: RemoteSettings, stats: Statistics) -> list[str]:
    """Say who was asked, and how much. Nothing here depends on how the service is reached, save what is less safe."""
    description = service.description
    calls = (
        f"in {stats.calls} calls ({stats.request_bytes:,} bytes there, {stats.response_bytes:,} back)"
        if settings.cache is None
        else "some of them of the cache"
    )
    head = (
        f"Prices of device {settings.target.name} by the hardware service {description.title}, fingerprint "
        f"{description.fingerprint}: {stats.questions:,} questions, {stats.distinct:,} of them different, and "
        f"{stats.exported:,} rows of tables, {calls}; none after compiling."
    )
    notes = [head, *description.notes]
    if service.open_on_purpose:
        notes.append(f"The hardware service {settings.target.name} was reached over TCP without TLS (insecure).")
    if description.determinism == "none":
        notes.append(f"The hardware service {settings.target.name} does not promise equal answers to equal questions.")
    if stats.refused:
        notes.append(f"{stats.refused:,} shapes are outside what the service prices: extrapolated from those inside.")
    if stats.unlabelled:
        notes.append(f"{stats.unlabelled:,} answers did not say where they come from: taken as analytical.")
    return notes


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
