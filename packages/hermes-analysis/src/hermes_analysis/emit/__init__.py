"""Something to deploy: engine command lines, a compose file, Kubernetes manifests of a scenario's deployment."""

from hermes_analysis.emit.pools import EmitError, EnginePool, engine_pools, left_out
from hermes_analysis.emit.writing import TARGETS, emit_all, emitted, other_engines

__all__ = ["TARGETS", "EmitError", "EnginePool", "emit_all", "emitted", "engine_pools", "left_out", "other_engines"]
