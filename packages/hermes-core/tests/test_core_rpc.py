"""Addresses, security defaults, and servers that begin and end in an orderly way."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import structlog
from hermes_core.api.errors import HermesError, InputError

grpc = pytest.importorskip("grpc", reason="needs the extra hermes-core[grpc]")

from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # noqa: E402
from hermes_core.rpc import (  # noqa: E402
    REQUEST_ID,
    ChannelSecurity,
    Registration,
    RpcServer,
    ServerSecurity,
    TlsFiles,
    open_channel,
    parse_address,
    read_token,
    wait_until_serving,
)

NAME = "test.v1.Echo"


def echo(request, context):
    if request == b"fail":
        raise ValueError("seven is not a number")
    if request == b"slow":
        time.sleep(0.3)
    return request


def stream(request, context):
    yield request
    if request == b"fail":
        raise ValueError("in the middle")
    yield request


def register(server):
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(echo),
        "Repeat": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))


def serving(address, security=None):
    return RpcServer(parse_address(str(address)), [Registration(NAME, register)], security)


def say(channel, text=b"hello", **options):
    return channel.unary_unary(f"/{NAME}/Say")(text, timeout=5, **options)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Return a folder with ca.pem, other.pem (another authority), and pairs server and client signed by the first."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl")
    folder = tmp_path_factory.mktemp("pem")

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key"),
            *("-out", f"{name}.csr"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "names", "-out", f"{name}.pem"),
        )
    return folder


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:x.sock", "unix:x.sock"),
        ("localhost:5001", "localhost:5001"),
        ("[::1]:5001", "[::1]:5001"),
        ("10.0.0.7:0", "10.0.0.7:0"),
    ],
)
def test_addresses_are_read(text, shown):
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "unix:", "localhost", "localhost:", ":5001", "localhost:x", "localhost:70000", "::1:5001", "a b:1"]
)
def test_other_addresses_are_refused(text):
    with pytest.raises(InputError, match=r"unix:PATH"):
        parse_address(text)


def test_a_socket_path_that_is_too_long_is_refused():
    with pytest.raises(InputError, match="shorter folder"):
        parse_address("unix:/" + "x" * 120)


def test_only_this_machine_reaches_a_loopback_address():
    assert [parse_address(text).is_loopback for text in ("unix:/x", "[::1]:1", "0.0.0.0:1")] == [True, True, False]


def test_a_socket_is_private_answers_and_is_removed(tmp_path):
    path = tmp_path / "s.sock"
    with serving(f"unix:{path}") as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with open_channel(server.address) as channel:
            assert say(channel) == b"hello"
    assert not path.exists()


def test_health_and_reflection_know_the_service(tmp_path):
    with serving(f"unix:{tmp_path}/s.sock") as server, open_channel(server.address) as channel:
        assert wait_until_serving(channel, NAME, attempts=50, pause=time.sleep) is None
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(
            iter(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]), timeout=5))
        )
        assert NAME in {service.name for service in answer.list_services_response.service}


def test_waiting_for_nobody_ends_with_the_fault(tmp_path):
    pauses = []
    with open_channel(parse_address(f"unix:{tmp_path}/nobody.sock")) as channel:
        fault = wait_until_serving(channel, NAME, attempts=3, pause=pauses.append)
    assert fault.code() is grpc.StatusCode.UNAVAILABLE
    assert len(pauses) == 3


SERVER = """
import sys
from hermes_core.rpc import Registration, RpcServer, ServerSecurity, parse_address
service = Registration("late.Service", lambda server: None)
server = RpcServer(parse_address(sys.argv[1]), [service], ServerSecurity(insecure=True))
try:
    server.start()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(server.address, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def processes():
    """Return what starts a server in a process of its own."""
    started = []

    def start(address):
        child = subprocess.Popen(
            [sys.executable, "-c", SERVER, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.communicate(timeout=20)


def test_a_server_that_starts_late_is_reached_over_the_channel_that_met_nobody(tmp_path, processes):
    """With gRPC 1.71 no check ever got through, however often it was made."""
    address = f"unix:{tmp_path}/late.sock"
    with open_channel(parse_address(address)) as channel:
        assert wait_until_serving(channel, "late.Service", attempts=2, pause=time.sleep) is not None
        processes(address)
        assert wait_until_serving(channel, "late.Service", attempts=200, pause=time.sleep) is None


@pytest.mark.parametrize("tcp", [True, False])
def test_an_address_that_another_process_has(tcp, tmp_path, processes):
    first = processes("localhost:0" if tcp else f"unix:{tmp_path}/s.sock")
    address = first.stdout.readline().strip()
    second = processes(address)
    assert second.wait(timeout=60) == 1
    said = f"the port {address[10:]} of localhost is taken" if tcp else f"another service listens at {address}"
    assert second.stderr.read().startswith(f"HermesError: {said}: stop ")
    security = ChannelSecurity(insecure=True)
    with open_channel(parse_address(address), security) as channel:
        assert wait_until_serving(channel, "late.Service", attempts=50, pause=time.sleep) is None


def test_a_port_that_another_has_on_one_address_of_the_host_only(processes):
    """gRPC would be content with ::1, and clients of localhost would reach either."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        child = processes(f"localhost:{other.getsockname()[1]}")
        assert child.wait(timeout=60) == 1
        assert "of localhost is taken" in child.stderr.read()


def test_a_call_has_an_id_and_a_fault_says_it(tmp_path):
    with serving(f"unix:{tmp_path}/s.sock") as server, open_channel(server.address, request_prefix="run7") as channel:
        call = channel.unary_unary(f"/{NAME}/Say").with_call(b"x", timeout=5)[1]
        assert dict(call.trailing_metadata())[REQUEST_ID] == "run7-1"
        with pytest.raises(grpc.RpcError) as caught:
            say(channel, b"fail")
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "ValueError: seven is not a number (request id run7-2)"
        answers = channel.unary_stream(f"/{NAME}/Repeat")
        assert list(answers(b"x")) == [b"x", b"x"]
        with pytest.raises(grpc.RpcError, match="in the middle"):
            list(answers(b"fail"))


def test_a_call_without_an_id_is_counted(tmp_path):
    with serving(f"unix:{tmp_path}/s.sock") as server, open_channel(server.address) as channel:
        call = channel.unary_unary(f"/{NAME}/Say").with_call(b"x", timeout=5)[1]
        assert dict(call.trailing_metadata())[REQUEST_ID] == "00000001"


def test_stopping_lets_a_running_call_end(tmp_path):
    server = serving(f"unix:{tmp_path}/s.sock")
    server.start()
    with open_channel(server.address) as channel:
        say(channel)
        running = channel.unary_unary(f"/{NAME}/Say").future(b"slow", timeout=5)
        time.sleep(0.1)
        server.stop()
        assert running.result() == b"slow"


def test_stopping_does_not_wait_for_ever_for_a_call_that_heeds_nothing(tmp_path, monkeypatch):
    server = serving(f"unix:{tmp_path}/s.sock")
    server.start()
    deaf = threading.Event()
    deaf.wait_for = []
    monkeypatch.setattr("hermes_core.rpc.server._CANCEL_S", 0.1)
    monkeypatch.setattr(server._server, "stop", lambda grace_s: deaf.wait_for.append(grace_s) or deaf)
    with structlog.testing.capture_logs() as logs:
        server.stop(0.1)
    assert deaf.wait_for == [0.1]
    assert [(log["event"], log["grace_s"]) for log in logs] == [("rpc.calls_left", 0.1)]
    assert server.wait(0)
    assert not (tmp_path / "s.sock").exists()
    monkeypatch.undo()
    server._server.stop(None).wait(5)


def test_the_socket_of_a_server_that_is_gone_is_taken_over(tmp_path):
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    with serving(f"unix:{path}") as server, open_channel(server.address) as channel:
        assert say(channel) == b"hello"


def test_a_socket_that_is_in_use_is_refused(tmp_path):
    with serving(f"unix:{tmp_path}/s.sock") as server:
        with pytest.raises(HermesError, match="another service listens at unix:"):
            serving(server.address).start()
        with open_channel(server.address) as channel:
            assert say(channel) == b"hello"


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(InputError, match="is no socket"):
        serving(f"unix:{path}").start()
    assert path.read_text() == "mine"


def test_a_port_that_is_taken_is_said(tmp_path):
    with serving("localhost:0", ServerSecurity(insecure=True)) as server:
        assert server.address.port > 0
        with pytest.raises(HermesError, match=f"the port {server.address.port} of localhost is taken"):
            serving(server.address, ServerSecurity(insecure=True)).start()


def test_tcp_without_tls_must_be_spelled_out():
    for build in (serving, lambda address: open_channel(parse_address(address))):
        with pytest.raises(InputError, match="by name with insecure=True"):
            build("localhost:5001")


def test_a_token_never_travels_in_the_clear():
    with pytest.raises(InputError, match="in the clear"):
        serving("localhost:0", ServerSecurity(token="t", insecure=True))  # noqa: S106 - a test's
    with pytest.raises(InputError, match="in the clear"):
        open_channel(parse_address("localhost:1"), ChannelSecurity(token="t", insecure=True))  # noqa: S106


def test_a_token_opens_and_its_absence_does_not(tmp_path):
    secret = "correct-horse"  # noqa: S105
    with serving(f"unix:{tmp_path}/s.sock", ServerSecurity(token=secret)) as server:
        with open_channel(server.address, ChannelSecurity(token=secret)) as channel:
            assert say(channel) == b"hello"
        for token in (None, "wrong"):
            with open_channel(server.address, ChannelSecurity(token=token)) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    say(channel)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert secret not in str(caught.value)
    assert secret not in repr(ServerSecurity(token=secret))
    assert secret not in repr(ChannelSecurity(token=secret))


def test_tokens_come_from_private_files_and_variables(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_text("abc\n")
    path.chmod(0o600)
    assert read_token(file=path) == "abc"
    monkeypatch.setenv("A_TOKEN", "def")
    assert read_token(variable="A_TOKEN") == "def"
    assert read_token() is None
    path.chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        read_token(file=path)
    for text in ("", "two words", "x" * 5000, "ä"):
        monkeypatch.setenv("A_TOKEN", text)
        with pytest.raises(InputError, match="A_TOKEN holds no token"):
            read_token(variable="A_TOKEN")
    with pytest.raises(InputError, match="cannot be read"):
        read_token(file=tmp_path / "absent")


def test_tls_checks_the_server(certificates):
    files = TlsFiles(certificate=certificates / "server.pem", key=certificates / "server.key")
    with serving("localhost:0", ServerSecurity(tls=files)) as server:
        with open_channel(server.address, ChannelSecurity(tls=TlsFiles(ca=certificates / "ca.pem"))) as channel:
            assert say(channel) == b"hello"
        for wrong in (
            ChannelSecurity(tls=TlsFiles(ca=certificates / "other.pem")),
            ChannelSecurity(insecure=True),
            ChannelSecurity(tls=TlsFiles(ca=certificates / "ca.pem"), server_name="elsewhere"),
        ):
            with open_channel(server.address, wrong) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    say(channel)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_checks_the_client(certificates):
    files = TlsFiles(certificates / "ca.pem", certificates / "server.pem", certificates / "server.key")
    mine = TlsFiles(certificates / "ca.pem", certificates / "client.pem", certificates / "client.key")
    with serving("localhost:0", ServerSecurity(tls=files, token="t")) as server:  # noqa: S106
        with open_channel(server.address, ChannelSecurity(tls=mine, token="t")) as channel:  # noqa: S106
            assert say(channel) == b"hello"
        anonymous = ChannelSecurity(tls=TlsFiles(ca=certificates / "ca.pem"), token="t")  # noqa: S106
        with open_channel(server.address, anonymous) as channel, pytest.raises(grpc.RpcError):
            say(channel)


def test_files_that_are_no_certificates_are_refused(tmp_path, certificates):
    path = tmp_path / "x.pem"
    path.write_text("nothing")
    with pytest.raises(InputError, match="holds no PEM certificate"):
        open_channel(parse_address("localhost:1"), ChannelSecurity(tls=TlsFiles(ca=path)))
    with pytest.raises(InputError, match="needs a certificate and its key"):
        serving("localhost:1", ServerSecurity(tls=TlsFiles(ca=certificates / "ca.pem")))
    with pytest.raises(InputError, match="protects nothing"):
        serving(f"unix:{tmp_path}/s", ServerSecurity(tls=TlsFiles(ca=path)))


SERVE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_core_rpc import serving
server = serving("unix:" + sys.argv[1])
server.start()
print("ready", flush=True)
server.serve_until_signalled()
print("ended", flush=True)
"""


def test_a_signal_ends_a_server_in_an_orderly_way(tmp_path):
    path = tmp_path / "s.sock"
    code = SERVE.format(tests=str(Path(__file__).parent))
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert child.stdout.readline() == "ready\n"
        with open_channel(parse_address(f"unix:{path}")) as channel:
            assert say(channel) == b"hello"
        child.terminate()
        assert child.stdout.read().endswith("ended\n")
        assert child.wait(timeout=10) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert not path.exists()
    assert threading.active_count() < 50
