"""Runs many scenarios that resemble one another, sharing what they have in common, and answers without running.

The entry `default` of the group `hermes.runner_sessions`: what sweeps and searches ask for, by name.
"""

from hermes_core.sessions.outlook import Outlook, PoolOutlook
from hermes_core.sessions.session import Draft, Session

__all__ = ["Draft", "Outlook", "PoolOutlook", "Session"]
