"""The hardware model `remote`: a deployment priced by a vendor's service, before the run."""

from hermes_hw.remote.model import RemoteModel
from hermes_hw.remote.settings import RemoteSettings, settings_of

__all__ = ["RemoteModel", "RemoteSettings", "settings_of"]
