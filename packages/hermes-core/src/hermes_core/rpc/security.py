"""Who may talk to whom: TLS, mutual TLS and tokens, with defaults that expose nothing.

A Unix socket needs nothing: its file's mode decides who may open it. TCP needs TLS, or `insecure`, which must be
spelled out. A token is read from a file or an environment variable, never from a command line.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from hermes_core.api.errors import InputError
from hermes_core.rpc.address import Address

_LONGEST_TOKEN: Final = 4096
_READABLE_BY_OTHERS: Final = 0o077
INSECURE: Final = "insecure=True"
"""How a program in Python allows TCP without TLS."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one side.

    A server needs `certificate` and `key`; with `ca` it also demands a certificate of its clients (mutual TLS). A
    client checks the server against `ca` (None: the system's authorities), and shows `certificate` with `key` if given.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """How a server protects itself."""

    tls: TlsFiles | None = None
    token: str | None = field(default=None, repr=False)
    """What every call must carry as a bearer token; None asks for none."""
    insecure: bool = False
    """Allows TCP without TLS."""
    consent: str = INSECURE
    """How whoever asks would allow it: the option, or the key, that messages name."""


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """How a client protects itself."""

    tls: TlsFiles | None = None
    token: str | None = field(default=None, repr=False)
    insecure: bool = False
    """Allows TCP without TLS."""
    server_name: str | None = None
    """The name in the server's certificate, where the address has another."""
    consent: str = INSECURE
    """As in `ServerSecurity`."""


def read_token(*, file: Path | None = None, variable: str | None = None) -> str | None:
    """Return the token in `file`, or in the environment variable `variable`; None when neither is given.

    Raises InputError when it is not there, empty, longer than 4,096 characters, not printable ASCII, or when others may
    read the file. The message never has the token in it.
    """
    if file is not None and variable is not None:
        raise InputError("a token comes from a file or from an environment variable, not from both")
    if file is not None:
        where = f"the token file {file}"
        try:
            text = file.read_text(encoding="utf-8").strip()
            mode = file.stat().st_mode
        except OSError as error:
            raise InputError(f"{where} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{where} is not text") from None
        if mode & _READABLE_BY_OTHERS:
            raise InputError(f"{where} can be read by others", remedy=f"chmod 600 {file}")
    elif variable is not None:
        where = f"the environment variable {variable}"
        text = os.environ.get(variable, "").strip()
    else:
        return None
    if not text:
        raise InputError(f"{where} holds no token", remedy="Put the token there, on one line.")
    if len(text) > _LONGEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise InputError(f"{where} holds no token: one has at most {_LONGEST_TOKEN} printable characters, no blanks")
    return text


def server_credentials(address: Address, security: ServerSecurity) -> grpc.ServerCredentials | None:
    """Return what a server at `address` listens with; None for TCP that is open on purpose.

    Raises InputError for TCP without TLS that was not asked for by name, a token that would travel in the clear, and
    PEM files that cannot be used.
    """
    if address.is_unix:
        if security.tls is not None:
            raise InputError(
                f"TLS on the Unix socket {address} protects nothing", remedy="Leave TLS out, or listen on HOST:PORT."
            )
        return grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    if security.tls is None:
        _refuse_clear_text(address, security)
        return None
    tls = security.tls
    if tls.certificate is None or tls.key is None:
        raise InputError("a server with TLS needs a certificate and its key", remedy="Give both PEM files.")
    pair = (_pem(tls.key, "PRIVATE KEY"), _pem(tls.certificate, "CERTIFICATE"))
    roots = None if tls.ca is None else _pem(tls.ca, "CERTIFICATE")
    return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=roots is not None)


def channel_credentials(address: Address, security: ChannelSecurity) -> grpc.ChannelCredentials | None:
    """Return what a client of `address` connects with; None for TCP that is open on purpose. Raises as the server's."""
    if address.is_unix:
        if security.tls is not None:
            raise InputError(f"the Unix socket {address} takes no TLS", remedy="Leave the TLS files out.")
        channel = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    elif security.tls is None:
        _refuse_clear_text(address, security)
        return None
    else:
        tls = security.tls
        if (tls.certificate is None) != (tls.key is None):
            raise InputError("a client certificate and its key go together", remedy="Give both PEM files, or neither.")
        channel = grpc.ssl_channel_credentials(
            root_certificates=None if tls.ca is None else _pem(tls.ca, "CERTIFICATE"),
            private_key=None if tls.key is None else _pem(tls.key, "PRIVATE KEY"),
            certificate_chain=None if tls.certificate is None else _pem(tls.certificate, "CERTIFICATE"),
        )
    if security.token is None:
        return channel
    return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(security.token))


def _refuse_clear_text(address: Address, security: ServerSecurity | ChannelSecurity) -> None:
    if security.token is not None:
        raise InputError(f"a token would travel in the clear to {address}", remedy="Use TLS with it, or a Unix socket.")
    if not security.insecure:
        raise InputError(
            f"{address} is TCP without TLS: anyone on the way can read and change what is said",
            remedy=f"Use a Unix socket (unix:PATH), give TLS files, or accept it by name with {security.consent}.",
        )


def _pem(path: Path, kind: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the PEM file {path} cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in content or kind.encode() not in content:
        raise InputError(f"{path} holds no PEM {kind.lower()}", remedy=f"Give the file with '{kind}' in its header.")
    return content
