"""The gRPC services beside a live server."""

from hermes_core.api.hardware import CompiledDeployment
from hermes_core.live.predict import EngineLoad, Predictor
from hermes_core.live.rpc_prediction import PredictionServicer
from hermes_core.live.rpc_simulation import SimulationServicer
from hermes_core.live.session import LiveSession
from hermes_core.rpc import RpcServer, ServerSecurity, parse_address
from hermes_core.serving.plan import PoolPlan


def predictors_of(session: LiveSession) -> dict[str, Predictor]:
    """Return a predictor for each pool of engines."""
    found = {}
    for pool in session.plan.pools:
        compiled = session.compiled[pool.name]
        if isinstance(pool, PoolPlan) and isinstance(compiled, CompiledDeployment):
            found[pool.name] = Predictor(pool, compiled)
    return found


def least_loaded(session: LiveSession, pool: str) -> EngineLoad:
    """Return the load of the engine of a pool that has the fewest tokens before it."""
    numbers = [number for number in range(len(session.clients)) if session.state(number).pool == pool]
    loads = [session.load_of(number) for number in numbers]
    return min(loads, key=lambda load: (load.waiting_tokens, load.decode_seqs))


def rpc_server(session: LiveSession, address: str, security: ServerSecurity) -> RpcServer:
    """Return a server of predictions for a session, and of simulations of any scenario.

    Raises InputError for an address that cannot be used, or that the security does not allow.
    """
    prediction = PredictionServicer(predictors_of(session), lambda pool: least_loaded(session, pool))
    services = [prediction.registration(), SimulationServicer().registration()]
    return RpcServer(parse_address(address), services, security)
