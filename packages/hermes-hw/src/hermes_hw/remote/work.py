"""What the ways of compiling share: a service that was reached, and the deployment as it is understood here."""

from dataclasses import dataclass, field, replace

from hermes_core.api.errors import InputError
from hermes_core.api.hardware import Deployment

from hermes_hw.client import Binding, DiskCache, OperatorKey, Service, Session
from hermes_hw.remote.settings import RemoteSettings
from hermes_hw.resolve import Resolved


@dataclass
class Work:
    """One deployment to be priced by one service."""

    service: Service
    settings: RemoteSettings
    deployment: Deployment
    resolved: Resolved
    binding: Binding
    cache: DiskCache | None
    _session: Session | None = field(default=None, init=False)

    def session(self, operators: tuple[OperatorKey, ...] = ()) -> Session:
        """Open the session that asks about `operators`, or about whole steps."""
        binding = replace(self.binding, operators=operators)
        self._session = self.service.session(binding, cache=self.cache, where=self.settings.where)
        return self._session

    def refuse_outside(self) -> None:
        """Raise InputError when shapes were refused and the settings do not allow to go on."""
        session = self._session
        if session is not None and session.stats.refused and self.settings.outside == "refuse":
            raise InputError(
                f"hardware service {self.settings.target.name} does not price {session.stats.refused:,} of the shapes "
                f"that this engine can meet; the first: {session.first_refusal}",
                remedy="Lower the engine's limits, or let prices be extrapolated with `outside: label`.",
            )

    def close(self) -> None:
        """Close session and cache."""
        if self._session is not None:
            self._session.close()
        if self.cache is not None:
            self.cache.close()
