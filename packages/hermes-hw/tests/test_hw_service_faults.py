"""What a user is told when a hardware service fails, each with a real process; and that nothing is left behind."""

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hermes_core.api.errors import HermesError, InputError
from hermes_core.api.hardware import Deployment
from hermes_core.rpc import ChannelSecurity, RpcServer, TlsFiles, parse_address
from hermes_hw.client import Binding, DiskCache, OperatorKey, Service, ServiceError, StepQuestion, Target
from hermes_hw.conformance.bad import Trial
from hermes_hw.remote import RemoteModel
from hermes_hw.server import registration

VENDOR = Path(__file__).with_name("hw_faulty_vendor.py")
MODEL = "meta-llama/Llama-3.1-8B"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc").exists() else True


@pytest.fixture
def vendor(tmp_path, monkeypatch):
    """Return what compiles against a faulty vendor, and afterwards see that neither process nor socket is left."""
    state, folders = tmp_path / "state", tmp_path / "f"
    state.mkdir()
    folders.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folders))

    def compile_with(fault, **options):
        command = [sys.executable, str(VENDOR), fault, str(state)]
        options = {"command": command, "timeout_ns": 20 * 10**9, **options}
        return RemoteModel().compile(Deployment(model=MODEL, device="trial-chip", max_seqs=8, options=options))

    yield compile_with
    assert list(folders.iterdir()) == []
    pid = state / "pid"
    assert not pid.exists() or not alive(int(pid.read_text()))


def test_a_sound_vendor_is_launched_asked_and_ended(vendor):
    compiled = vendor("none")
    assert compiled.compile_error < 0.05
    assert compiled.wall_s["launch"] > 0
    assert any("none after compiling" in note for note in compiled.notes)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("die", "its process ended with exit code 9"),
        ("lengths", r"times for \d+ questions"),
        ("negative", "question 3 takes -5 ps"),
        ("nan", "question 3 takes nan J"),
        ("huge", "larger than max|too large"),
        ("crash", "RuntimeError: the simulator has lost its way .request id hermes-"),
        ("exit", "ended with exit code 3; it said last:\n    licence not found"),
        ("version", "it does not speak hermes.hw.v1"),
    ],
)
def test_a_fault_ends_in_a_clear_message(vendor, fault, message):
    with pytest.raises(ServiceError, match=message) as caught:
        vendor(fault)
    assert "hardware service 'trial-chip'" in str(caught.value)
    assert caught.value.remedy


def test_a_vendor_that_hangs_gets_a_second_chance_and_no_third(vendor):
    with pytest.raises(ServiceError, match="Estimate gave no answer within 1 s, its second chance"):
        vendor("hang", timeout_ns=5 * 10**8)


def test_a_vendor_that_is_slow_once_is_asked_again(vendor):
    assert vendor("slow", timeout_ns=10**9).compile_error < 0.05


def test_what_a_vendor_has_started_itself_ends_with_it(vendor):
    before = subprocess.run(["pgrep", "-fx", "sleep 60"], capture_output=True, text=True, check=False).stdout.split()
    vendor("orphan")
    after = subprocess.run(["pgrep", "-fx", "sleep 60"], capture_output=True, text=True, check=False).stdout.split()
    assert set(after) <= set(before)


def test_a_command_that_is_not_there(vendor):
    with pytest.raises(InputError, match=r"command \['no-such-program'\] cannot be started: No such file"):
        vendor("none", command=["no-such-program"])


def test_a_vendor_that_does_not_listen(tmp_path):
    command = [sys.executable, str(VENDOR), "silent", str(tmp_path)]
    with pytest.raises(ServiceError, match="it does not serve 4 s after its start"):
        Service(Target("chip", command=command, start_up_s=4.0))
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_host_that_dies_leaves_no_vendor_behind(tmp_path):
    toy = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import chip"
    (tmp_path / "chip.py").write_text(
        "import os, pathlib\nfrom hermes_hw.conformance.bad import Trial\nfrom hermes_hw.server import serve\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\nserve(Trial(), [])\n"
    )
    host = (
        "import os, sys\nfrom hermes_hw.client import Service, Target\n"
        f"Service(Target('chip', command=[sys.executable, '-c', {toy!r}]))\nos._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", host], check=False, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)})
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.1)
    assert not alive(pid)


# --- a service that runs already --------------------------------------------------------------------------------

KEY = OperatorKey.of("gemm", "bf16", n=64, k=64)


class Versioned(Trial):
    """A sound service of some version."""

    def __init__(self, version="1", limits=()):
        super().__init__()
        self.version = version
        self.limits = dict(limits)

    def describe(self):
        description = super().describe()
        return type(description)(**{**vars(description), "version": self.version, **self.limits})


def serving(address, version="1", security=None, **limits):
    server = RpcServer(parse_address(str(address)), [registration(Versioned(version, limits))], security)
    server.start()
    return server


def ask(session, *sizes):
    return session.operators([(KEY, np.array(sizes)[:, None])])[0].latency_ps.tolist()


VERSIONED = """
import sys
from hermes_hw.conformance.bad import Trial
from hermes_hw.server import serve
class Versioned(Trial):
    def describe(self):
        description = super().describe()
        return type(description)(**{**vars(description), "version": sys.argv[1]})
serve(Versioned(), sys.argv[2:])
"""


@pytest.fixture
def process(tmp_path):
    """Return what serves in a process of its own: the process, and the address that it says."""
    started = []

    def start(address, *options, version="1"):
        command = [sys.executable, "-c", VERSIONED, version, "--address", address, *options]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(child)
        said = child.stderr.readline()
        assert said.startswith("serving at "), said
        return child, said.removeprefix("serving at ").strip()

    yield start
    for child in started:
        child.terminate()
        child.wait(timeout=20)
        child.stderr.close()
    assert not list(tmp_path.glob("*.sock"))


def test_a_restart_is_bridged_and_a_replacement_refused(tmp_path, process):
    """The first is killed where it stands: its socket's file stays, and the next takes it over."""
    child, address = process(f"unix:{tmp_path}/s.sock")
    with Service(Target("chip", address=address)) as service:
        session = service.session(Binding(operators=(KEY,)))
        first = ask(session, 1, 2)
        child.kill()
        child.wait()
        child, _ = process(address)
        assert ask(session, 1, 2) == first
        assert len(ask(session, 3)) == 1
        assert service.stats.reopened == 1
        child.terminate()
        child.wait(timeout=20)
        process(address, version="2")
        with pytest.raises(ServiceError, match="it restarted and is another one now"):
            ask(session, 4)


def test_nobody_at_the_address(tmp_path):
    with pytest.raises(ServiceError, match="nobody answers") as caught:
        Service(Target("chip", address=f"unix:{tmp_path}/none.sock", patience_s=0.1))
    assert "Check that it runs" in str(caught.value)


def test_a_socket_that_was_removed(tmp_path, process):
    _, address = process(f"unix:{tmp_path}/s.sock")
    (tmp_path / "s.sock").unlink()
    with pytest.raises(ServiceError, match="nobody answers"):
        Service(Target("chip", address=address, patience_s=0.1))


def test_a_wrong_token_is_said_and_not_shown(tmp_path, process):
    token = tmp_path / "token"
    token.write_text("right-horse")
    token.chmod(0o600)
    child, address = process(f"unix:{tmp_path}/s.sock", "--token-file", str(token))
    target = Target("chip", address=address, security=ChannelSecurity(token="wrong-horse"))  # noqa: S106
    with pytest.raises(ServiceError, match="does not accept the token") as caught:
        Service(target)
    assert "horse" not in str(caught.value)
    child.terminate()
    assert "horse" not in child.stderr.read()


@pytest.fixture
def certificate(tmp_path):
    """Return a certificate of localhost and its key."""
    pem, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(pem)]
    try:
        subprocess.run(made, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the program openssl")
    return pem, key


def test_tls_on_one_side_only(process, certificate):
    """Each way round, and with both sides agreed."""
    pem, key = certificate
    with_tls, without = ChannelSecurity(tls=TlsFiles(ca=pem)), ChannelSecurity(insecure=True)
    _, plain = process("localhost:0", "--insecure")
    _, encrypted = process("localhost:0", "--tls-certificate", str(pem), "--tls-key", str(key))
    for address, security in ((plain, with_tls), (encrypted, without)):
        with pytest.raises(ServiceError, match="nobody answers") as caught:
            Service(Target("chip", address=address, security=security, patience_s=0.1))
        assert "agree on TLS" in str(caught.value)
    with Service(Target("chip", address=encrypted, security=with_tls)) as service:
        assert service.description.title == "hermes trial 1"


def test_calls_are_split_by_the_declared_limits_and_asked_once(tmp_path):
    with (
        serving(f"unix:{tmp_path}/s.sock", max_queries_per_call=100, max_request_bytes=150) as server,
        Service(Target("chip", address=str(server.address))) as service,
    ):
        session = service.session(Binding(operators=(KEY,)))
        found = ask(session, *range(1, 251), *range(1, 251))
        assert found[:250] == found[250:]
        assert (service.stats.questions, service.stats.distinct) == (500, 250)
        calls = service.stats.calls
        assert calls >= 3
        assert service.stats.retries == 0
        assert ask(session, 7, 250) == [found[6], found[249]]
        assert service.stats.calls == calls


def test_a_limit_that_was_not_declared_is_found_by_halving(tmp_path):
    class Narrow(Trial):
        def describe(self):
            return type(super().describe())(**{**vars(super().describe()), "max_queries_per_call": 64})

    server = RpcServer(parse_address(f"unix:{tmp_path}/s.sock"), [registration(Narrow())])
    with server, Service(Target("chip", address=str(server.address))) as service:
        object.__setattr__(service.description, "max_queries_per_call", 0)
        session = service.session(Binding(operators=(KEY,)))
        assert len(ask(session, *range(1, 301))) == 300
        assert service.stats.calls == 8


def test_answers_are_kept_on_disk_under_the_fingerprint(tmp_path):
    address, calls = f"unix:{tmp_path}/s.sock", []
    for version in ("1", "1", "2"):
        with serving(address, version=version), Service(Target("chip", address=address)) as service:
            cache = DiskCache(tmp_path / "prices.sqlite")
            session = service.session(Binding(operators=(KEY,)), cache=cache)
            ask(session, 1, 2, 3)
            calls.append((service.stats.calls, service.stats.cached))
            cache.close()
    assert calls == [(1, 0), (0, 3), (1, 0)]


def test_a_damaged_cache_is_said(tmp_path):
    path = tmp_path / "prices.sqlite"
    path.write_text("this is no database, however long it may be " * 100)
    with pytest.raises(HermesError, match="delete it, or name another file"):
        DiskCache(path)


@pytest.mark.parametrize("address", ["localhost:0", "unix:{}/s.sock"])
def test_an_address_that_another_service_has(address, tmp_path):
    """Two processes: the second says so and ends, the first answers as before, and its socket stays."""
    (tmp_path / "chip.py").write_text(
        "from hermes_hw.conformance.bad import Trial\nfrom hermes_hw.server import serve\nserve(Trial())\n"
    )
    command = [sys.executable, str(tmp_path / "chip.py"), "--insecure", "--address"]
    first = subprocess.Popen([*command, address.format(tmp_path)], stderr=subprocess.PIPE, text=True)
    try:
        found = first.stderr.readline().removeprefix("serving at ").strip()
        second = subprocess.run([*command, found], capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode == 1
        assert re.fullmatch(
            r"error: (the port \d+ of localhost is taken|another service listens at unix:.*): stop .*\n", second.stderr
        )
        with Service(Target("chip", address=found, security=ChannelSecurity(insecure=True))) as service:
            assert service.description.title == "hermes trial 1"
    finally:
        first.terminate()
        first.wait(timeout=20)
        first.stderr.close()


def test_eight_hosts_at_once_and_no_growth(tmp_path):
    """A real process; what it holds after many calls is what it held after few."""
    (tmp_path / "chip.py").write_text(
        "from hermes_hw.conformance.bad import Trial\nfrom hermes_hw.server import serve\nserve(Trial())\n"
    )
    address = f"unix:{tmp_path}/s.sock"
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "chip.py"), "--address", address], stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stderr.readline().startswith("serving at unix:")

        def host(number, calls):
            with Service(Target(f"host {number}", address=address)) as service:
                session = service.session(Binding(seed=3))
                asked = ([StepQuestion((1, 1), (step + 1, 9))] for step in range(calls))
                found = [session.steps(question).latency_ps.tolist() for question in asked]
                session.close()
                return found

        def resident_kib():
            status = Path(f"/proc/{child.pid}/status").read_text()
            return int(status.split("VmRSS:")[1].split()[0])

        with ThreadPoolExecutor(8) as pool:
            first = list(pool.map(lambda number: host(number, 50), range(8)))
            assert all(found == first[0] for found in first)
            before = resident_kib() if Path("/proc").exists() else 0
            list(pool.map(lambda number: host(number, 250), range(8)))
        if before:
            assert resident_kib() - before < 8 * 1024
    finally:
        child.terminate()
        child.wait(timeout=20)
        child.stderr.close()
    assert not (tmp_path / "s.sock").exists()
