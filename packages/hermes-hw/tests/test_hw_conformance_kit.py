"""The kit: a sound service passes every case, and each case fails when what it demands is broken."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hermes_core.rpc import RpcServer, parse_address
from hermes_hw.client import Target
from hermes_hw.conformance import CASES, Kit, Outcome, run_cases
from hermes_hw.conformance.bad import bad_registration
from hermes_hw.conformance.runner import run_case, write_json, write_junit

REFERENCE = Path(__file__).resolve().parents[3] / "docs/reference/conformance.md"


class Trial:
    """A server with one fault, which can be restarted."""

    def __init__(self, folder, fault):
        folder.mkdir()
        self.address = parse_address(f"unix:{folder}/bad.sock")
        self.fault = fault
        self.life = 0
        self.server = None
        self.start()

    def start(self):
        self.server = RpcServer(self.address, [bad_registration(self.fault, self.life)], workers=16)
        self.server.start()

    def stop(self):
        self.server.stop(grace_s=1.0)

    def restart(self):
        self.stop()
        self.life += 1
        self.start()


@pytest.fixture
def trial(tmp_path):
    started = []

    def start(fault):
        server = Trial(tmp_path / f"{len(started)}", fault)
        kit = Kit(Target("trial", address=str(server.address), patience_s=0.2), restart=server.restart)
        started.append((server, kit))
        return kit

    yield start
    for server, kit in started:
        kit.close()
        server.stop()


def test_a_sound_service_passes_every_case(trial):
    results = run_cases(CASES, trial(""))
    odd = {result.case: result.reason for result in results if result.outcome is not Outcome.PASSED}
    # Skipped by a service that offers everything.
    assert sorted(odd) == ["EN-02", "ER-08"], odd


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_fails_when_what_it_demands_is_broken(case, trial):
    result = run_case(case, trial(case.name))
    assert result.outcome is (Outcome.WARNED if case.warning else Outcome.FAILED), result
    assert result.reason


@pytest.mark.parametrize("name", ["CF-04", "ES-09", "ER-06", "ST-03"])
def test_a_fault_from_which_no_other_follows_fails_its_case_alone(name, trial):
    """About half of the faults; who forgets sessions, say, cannot but fail all that needs one."""
    odd = {result.case for result in run_cases(CASES, trial(name)) if result.outcome is not Outcome.PASSED}
    assert odd == {name, "EN-02", "ER-08"}  # these two are skipped by a service that offers everything


def test_cases_that_a_full_service_skips_pass_on_a_plain_one(trial):
    kit = trial("EN-02")
    assert run_case(next(case for case in CASES if case.name == "ER-08"), kit).outcome is Outcome.PASSED
    kit = trial("ER-08")
    assert run_case(next(case for case in CASES if case.name == "EN-02"), kit).outcome is Outcome.PASSED


def test_names_are_unique_and_explained():
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(len(case.explanation) > 40 for case in CASES)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the documentation is not beside the package")
def test_the_reference_has_a_paragraph_for_each_case():
    text = " ".join(REFERENCE.read_text().split())
    missing = [case.name for case in CASES if f"**{case.name}** {case.title}" not in text]
    assert missing == []
    assert [case.name for case in CASES if case.explanation not in text] == []


def test_reports_say_what_failed(trial, tmp_path):
    cases = [case for case in CASES if case.name in {"ES-02", "DT-01", "RE-01", "PH-01"}]
    results = run_cases(cases, trial("ES-02"))
    write_json(tmp_path / "r.json", results, "trial")
    write_junit(tmp_path / "r.xml", results, "trial")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["conforms"] is False
    assert {item["case"]: item["outcome"] for item in content["cases"]}["ES-02"] == "failed"
    suite = ET.parse(tmp_path / "r.xml").getroot()  # noqa: S314 - our own
    assert suite.get("failures") == "1"
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["ES-02 prices are positive"]
