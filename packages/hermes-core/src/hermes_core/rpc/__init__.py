"""gRPC plumbing that every HERMES service shares: addresses, security, servers, channels. Extra `hermes-core[grpc]`.

server = RpcServer(parse_address("unix:/run/user/1000/x.sock"), [Registration(NAME, add)])
with server:
    server.serve_until_signalled()

channel = open_channel(parse_address("localhost:5001"), ChannelSecurity(tls=TlsFiles(ca=Path("ca.pem"))))
"""

from hermes_core.rpc.address import Address, parse_address
from hermes_core.rpc.channel import open_channel, wait_until_serving
from hermes_core.rpc.interceptors import REQUEST_ID, ClientMetadata, RequestIds, TokenCheck
from hermes_core.rpc.security import (
    ChannelSecurity,
    ServerSecurity,
    TlsFiles,
    channel_credentials,
    read_token,
    server_credentials,
)
from hermes_core.rpc.server import Registration, RpcServer

__all__ = [
    "REQUEST_ID",
    "Address",
    "ChannelSecurity",
    "ClientMetadata",
    "Registration",
    "RequestIds",
    "RpcServer",
    "ServerSecurity",
    "TlsFiles",
    "TokenCheck",
    "channel_credentials",
    "open_channel",
    "parse_address",
    "read_token",
    "server_credentials",
    "wait_until_serving",
]
