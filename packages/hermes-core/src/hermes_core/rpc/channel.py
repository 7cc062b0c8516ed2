"""The client's end: a channel to an address, and the wait until who is there says that it serves."""

from collections.abc import Callable, Sequence
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hermes_core.rpc.address import Address
from hermes_core.rpc.interceptors import ClientMetadata
from hermes_core.rpc.security import ChannelSecurity, channel_credentials

LARGEST_MESSAGE: Final = 64 * 2**20
"""Bytes; gRPC's own limit is 4 MiB."""
_PAUSE_S: Final = 0.02
_LINGER_S: Final = 0.1
"""How long a health check waits for a connection, once nobody has answered."""


def open_channel(
    address: Address,
    security: ChannelSecurity | None = None,
    *,
    largest_message: int = LARGEST_MESSAGE,
    metadata: Sequence[tuple[str, str]] = (),
    request_prefix: str = "",
) -> grpc.Channel:
    """Return a channel to `address`. Nothing is sent until the first call. The caller closes it.

    `metadata` goes with every call; with `request_prefix` each call is named PREFIX-NUMBER (`REQUEST_ID`).
    Raises InputError when the security does not allow it; see `channel_credentials`.
    """
    security = security or ChannelSecurity()
    credentials = channel_credentials(address, security)
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", largest_message),
        ("grpc.max_send_message_length", largest_message),
        # Who calls decides what is tried again; and a service that starts late is found soon.
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.use_local_subchannel_pool", 1),
        # A proxy of the environment has no business between HERMES and its services.
        ("grpc.enable_http_proxy", 0),
    ]
    if security.server_name is not None:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    if credentials is None:
        channel = grpc.insecure_channel(address.target, options)
    else:
        channel = grpc.secure_channel(address.target, credentials, options)
    return grpc.intercept_channel(channel, ClientMetadata(metadata, prefix=request_prefix))


def wait_until_serving(
    channel: grpc.Channel, service: str, *, attempts: int, pause: Callable[[float], object], timeout_s: float = 1.0
) -> grpc.RpcError | None:
    """Ask `grpc.health.v1` for `service` until it serves, at most `attempts` times with `pause(seconds)` between.

    Returns None when it serves, else the last fault (for a service that does not serve yet, one is never raised by
    health itself: then a fault without a code). A fault that waiting does not cure ends the wait at once.

    Where nobody answered, later checks wait for a connection: gRPC before 1.73 connects only while a call waits for it,
    and calls that fail at once never see one made (measured with 1.71 on Linux).
    """
    stub = health_pb2_grpc.HealthStub(channel)
    last: grpc.RpcError = grpc.RpcError("it does not serve yet")
    linger = False
    for _ in range(attempts):
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = stub.Check(request, timeout=_LINGER_S if linger else timeout_s, wait_for_ready=linger)
        except grpc.RpcError as fault:
            code = fault.code() if isinstance(fault, grpc.Call) else None
            if code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.NOT_FOUND}:
                return fault
            if not (linger and code is grpc.StatusCode.DEADLINE_EXCEEDED):
                last = fault  # else it is still what the first check said: who is missing, and why
            linger = code is grpc.StatusCode.UNAVAILABLE or (linger and code is grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return None
        pause(_PAUSE_S)
    return last
