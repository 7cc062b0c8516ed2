"""Vendors' hardware services in whole runs: what is simulated does not depend on how the service is reached."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hermes_core as hermes
import pytest
from hermes_core.api.errors import InputError
from hermes_core.record import MemorySink
from hermes_core.runs import plan_of
from hermes_core.simulation import Simulation
from hermes_hw.remote import RemoteModel

REPOSITORY = Path(__file__).resolve().parent.parent
NODE = REPOSITORY / "examples/vendor-node"
TOY = REPOSITORY / "examples/vendor-python/toy_asic.py"
BUILTIN = "hermes_hw.server.builtin:BuiltinService"


def scenario(remote, requests=400, **device):
    return {
        "model": "meta-llama/Llama-3.1-8B",
        "hardware": "chip",
        "devices": {"chip": {"remote": remote, **device}},
        "workload": {"rate": "12/s", "prompt": 700, "output": 120, "requests": requests},
    }


def record(plan, compiled=None):
    sink = MemorySink()
    Simulation(plan, compiled=compiled).run(sink=sink)
    return [chunk.SerializeToString(deterministic=True) for chunk in sink.chunks]


@pytest.fixture
def served(tmp_path):
    """Return what serves a device in a process of its own: the address, and the process."""
    started = []

    def start(*command):
        address = f"unix:{tmp_path}/s{len(started)}.sock"
        child = subprocess.Popen([*command, "--address", address], stderr=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stderr.readline().startswith("serving")
        return address, child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.parametrize("ask", ["operators", "steps"])
def test_a_record_is_the_same_through_a_socket_and_in_this_process(ask, served):
    """Byte for byte: the same plan, compiled once by a process behind a socket and once by a class in this one."""
    address, _ = served(str(Path(sys.executable).with_name("hermes")), "hw", "serve", "h100-sxm")
    plan = plan_of(scenario({"address": address, "ask": ask}))
    here = plan_of(scenario({"python": BUILTIN, "ask": ask}))
    in_process = RemoteModel().compile(here.pools[0].deployment)
    through_a_socket = record(plan)
    assert through_a_socket == record(plan, {"default": in_process})
    # And launched, of which the manifest says only what the scenario does.
    launched = plan_of(scenario({"command": [sys.executable, "-c", LAUNCHED], "ask": ask}))
    assert record(launched)[1:] == through_a_socket[1:]


LAUNCHED = (
    "from hermes_hw.server import serve; from hermes_hw.server.builtin import BuiltinService; "
    "serve(BuiltinService('h100-sxm'), [])"
)


def test_a_service_prices_as_the_model_that_it_serves():
    """Up to what a device does not know: padding to captured graphs, and the launches of steps without one."""
    near = hermes.run(scenario({"python": BUILTIN})).requests["e2e_ns"].mean()
    data = scenario({"python": BUILTIN})
    del data["devices"]
    data["hardware"] = {"device": "h100-sxm", "kind": "roofline"}
    assert near == pytest.approx(hermes.run(data).requests["e2e_ns"].mean(), rel=0.05)


def test_a_service_that_is_killed_in_the_middle_of_a_run_is_not_missed(served):
    address, child = served(sys.executable, str(TOY))
    plan = plan_of(scenario({"address": address}))
    undisturbed = record(plan)
    simulation = Simulation(plan)
    sink = MemorySink()
    told = []

    def kill(progress):
        told.append(progress.finished)
        child.kill()
        child.wait()

    simulation.run(sink=sink, progress=kill)
    assert told
    assert child.returncode is not None
    assert [chunk.SerializeToString(deterministic=True) for chunk in sink.chunks] == undisturbed


def test_what_is_less_safe_is_in_the_manifest(served, tmp_path):
    child = subprocess.Popen(
        [sys.executable, str(TOY), "--address", "localhost:0", "--insecure"], stderr=subprocess.PIPE, text=True
    )
    try:
        address = child.stderr.readline().removeprefix("serving at ").strip()
        with pytest.raises(InputError, match="insecure"):
            hermes.run(scenario({"address": address}, requests=5))
        result = hermes.run(scenario({"address": address, "insecure": True}, requests=5))
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
    notes = " ".join(item.summary for item in result.manifest.diagnostics)
    assert "over TCP without TLS (insecure)" in notes
    assert "none after compiling" in notes
    refused = subprocess.run(
        [sys.executable, str(TOY), "--address", "localhost:0"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "accept it by name with --insecure" in refused.stderr


def test_a_token_is_in_no_output_and_in_no_record(tmp_path):
    secret = "unguessable-0815"  # noqa: S105 - a test's
    path = tmp_path / "token"
    path.write_text(secret)
    path.chmod(0o600)
    address = f"unix:{tmp_path}/s.sock"
    child = subprocess.Popen(
        [sys.executable, str(TOY), "--address", address, "--token-file", str(path)], stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stderr.readline().startswith("serving")
        out = hermes.run(scenario({"address": address, "token_file": str(path)}, requests=5))
        assert secret.encode() not in b"".join(chunk.SerializeToString() for chunk in out.chunks)
    finally:
        child.terminate()
        rest = child.stderr.read()
        child.wait(timeout=20)
        child.stderr.close()
    assert secret not in rest
    with pytest.raises(InputError, match="token does not stand in a scenario"):
        RemoteModel().compile(_deployment({"address": address, "token": secret}))


def _deployment(options):
    plan = plan_of(scenario({"python": BUILTIN}))
    return replace(plan.pools[0].deployment, options=options, device_spec=None)


def test_a_configuration_that_a_vendor_refuses_is_placed(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: meta-llama/Llama-3.1-8B\nhardware: chip\ndevices:\n"
        f"  chip: {{remote: {{python: '{TOY}:ToyAsic', config: {{cores: 0, colour: red}}}}}}\n"
        "workload: {rate: 1/s, prompt: 10, output: 10, requests: 3}\n"
    )
    with pytest.raises(InputError) as caught:
        hermes.run(path)
    text = str(caught.value)
    assert "devices.chip.remote.config/cores: 0 is below 1" in text
    assert "devices.chip.remote.config/colour: there is no 'colour' to set; known: cores" in text
    assert "s.yaml:" in text


def test_shapes_outside_are_labelled_or_refused(tmp_path):
    vendor = tmp_path / "narrow.py"
    vendor.write_text(
        "import numpy as np\nfrom hermes_hw.server import Description, HardwareService, Prices\n"
        "class Narrow(HardwareService):\n"
        "    def describe(self):\n"
        "        return Description('acme', 'narrow', '1', steps=True, memory_bytes=10**11)\n"
        "    def price_steps(self, steps, session):\n"
        "        long = np.flatnonzero(steps.sums(steps.context_tokens) > 10**5)\n"
        "        why = dict.fromkeys(long.tolist(), 'contexts of more than 100,000 tokens in all')\n"
        "        return Prices(1e-3 + 1e-9 * steps.sums(steps.context_tokens), refused=why)\n"
    )
    remote = {"python": f"{vendor}:Narrow"}
    result = hermes.run(scenario(remote, requests=20))
    assert any("extrapolated from those inside" in item.summary for item in result.manifest.diagnostics)
    with pytest.raises(InputError, match="100,000 tokens in all"):
        hermes.run(scenario({**remote, "outside": "refuse"}, requests=20))


# --- the examples pass the kit ------------------------------------------------------------


def conformance(command, folder):
    hermes_command = str(Path(sys.executable).with_name("hermes"))
    done = subprocess.run(
        [hermes_command, "hw", "conformance", "--command", command, "--junit", str(folder / "r.xml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "HERMES_PROTO": str(REPOSITORY / "proto")},
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "0 failed, 0 warned" in done.stdout
    assert (folder / "r.xml").exists()


def test_the_python_example_is_short_and_passes_the_kit(tmp_path):
    lines = [line for line in TOY.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 40
    conformance(f"{sys.executable} {TOY}", tmp_path)


@pytest.fixture(scope="module")
def node_example(tmp_path_factory):
    """Return a copy of the example in JavaScript with its packages installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node.js (20 or newer) with npm")
    folder = tmp_path_factory.mktemp("node") / "vendor-node"
    shutil.copytree(NODE, folder, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        pytest.skip(f"npm ci cannot reach its registry: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def test_the_example_in_javascript_passes_the_kit(node_example, tmp_path):
    conformance(f"node {node_example}/server.js", tmp_path)


def test_a_run_with_the_example_in_javascript(node_example, monkeypatch):
    monkeypatch.setenv("HERMES_PROTO", str(REPOSITORY / "proto"))
    remote = {"command": ["node", str(node_example / "server.js")], "config": {"cores": 96}}
    result = hermes.run(scenario(remote, requests=50))
    assert (result.requests["e2e_ns"] > 0).all()


def test_the_lock_file_names_no_registry():
    text = (NODE / "package-lock.json").read_text()
    assert '"resolved"' not in text
    assert '"integrity"' in text
