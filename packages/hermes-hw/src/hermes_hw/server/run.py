"""`serve`: a hardware service as a program, started by HERMES or by hand."""

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import structlog
from hermes_core.api.errors import HermesError, InputError
from hermes_core.rpc import RpcServer, ServerSecurity, TlsFiles, parse_address, read_token

from hermes_hw.client.launch import COOKIE, COOKIE_VALUE, ENDPOINT, PROTOCOL_LIST
from hermes_hw.client.questions import PROTOCOLS
from hermes_hw.server.base import HardwareService
from hermes_hw.server.servicer import registration


def serve(service: HardwareService, arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes, or until the host that started this is gone; then exit.

    Started by HERMES, it listens where the environment says. By hand it takes `--address`, and for TCP the files of TLS
    or `--insecure`. What it has to say goes to stderr; exit code 2 means that it was not asked in a way it understands.
    """
    log_to_stderr()
    options = _parser(service).parse_args(arguments)
    try:
        sys.exit(_serve(service, options))
    except HermesError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def log_to_stderr(*, debug: bool = False) -> None:
    """Send the log to stderr: from warnings up, or everything."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event", "request_id"], drop_missing=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _serve(service: HardwareService, options: argparse.Namespace) -> int:
    endpoint = os.environ.get(ENDPOINT, "")
    launched = os.environ.get(COOKIE) == COOKIE_VALUE and bool(endpoint) and options.address is None
    if launched:
        offered = os.environ.get(PROTOCOL_LIST, "").split(",")
        if not set(offered) & set(PROTOCOLS):
            raise HermesError(
                f"the host speaks protocol {', '.join(offered)}, this service {', '.join(PROTOCOLS)}: update one"
            )
        address, security = parse_address(endpoint), ServerSecurity()
    elif options.address is None:
        of = service.describe()
        raise InputError(
            f"this is {of.vendor} {of.model} {of.version}, a hardware service of HERMES, with nowhere to listen",
            remedy="Name its command in a scenario (devices.NAME.remote.command), or give --address unix:PATH.",
        )
    else:
        address, security = parse_address(options.address), security_of(options)
    server = RpcServer(address, [registration(service)], security)
    with server:
        if launched:
            threading.Thread(target=_watch_host, args=(server,), daemon=True).start()
        else:
            sys.stderr.write(f"serving at {server.address}\n")
            sys.stderr.flush()
        server.serve_until_signalled()
    return 0


def security_of(options: argparse.Namespace) -> ServerSecurity:
    """Return the security that options of a command line ask for."""
    tls = None
    if options.tls_certificate or options.tls_key or options.tls_ca:
        tls = TlsFiles(options.tls_ca, options.tls_certificate, options.tls_key)
    token = read_token(file=options.token_file, variable=options.token_env)
    return ServerSecurity(tls=tls, token=token, insecure=options.insecure, consent="--insecure")


def _parser(service: HardwareService) -> argparse.ArgumentParser:
    of = service.describe()
    parser = argparse.ArgumentParser(description=f"{of.vendor} {of.model} {of.version}: a hardware service of HERMES.")
    parser.add_argument("--address", help="unix:PATH or HOST:PORT (port 0: the system chooses)")
    parser.add_argument("--tls-certificate", type=Path, help="PEM file of the server")
    parser.add_argument("--tls-key", type=Path, help="PEM file of its private key")
    parser.add_argument("--tls-ca", type=Path, help="PEM file: demand certificates of clients, signed by these")
    parser.add_argument("--token-file", type=Path, help="file with the token that calls must carry")
    parser.add_argument("--token-env", help="environment variable with it")
    parser.add_argument("--insecure", action="store_true", help="allow TCP without TLS")
    return parser


def _watch_host(server: RpcServer) -> None:
    """End the service when stdin does: the host that held its other end is gone."""
    while os.read(sys.stdin.fileno(), 4096):
        continue
    server.ask_to_end()
