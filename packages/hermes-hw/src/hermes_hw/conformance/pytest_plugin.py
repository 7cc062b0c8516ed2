r"""The cases as tests in a vendor's own suite.

    pytest -p hermes_hw.conformance.pytest_plugin --hermes-hw-address=unix:/run/chip.sock \
        --pyargs hermes_hw.conformance.suite

or `--hermes-hw-command="node server.js"`; or override the fixture `hermes_hw_target`, which returns a
`hermes_hw.client.Target`, in a conftest.py, and import the test: `from hermes_hw.conformance.suite import *`.
"""

import shlex
from collections.abc import Iterator

import pytest

from hermes_hw.client import Target
from hermes_hw.conformance.case import Kit


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("hermes-hw", "conformance of a hardware service")
    group.addoption("--hermes-hw-address", default="", help="unix:PATH or HOST:PORT of the service")
    group.addoption("--hermes-hw-command", default="", help="command that starts it, in place of an address")
    group.addoption("--hermes-hw-seed", default=1, type=int, help="seed of the shapes that are asked about")


@pytest.fixture(scope="session")
def hermes_hw_target(request: pytest.FixtureRequest) -> Target:
    """Return the service under test; override this where it is more than an address."""
    address = request.config.getoption("--hermes-hw-address")
    command = request.config.getoption("--hermes-hw-command")
    if not address and not command:
        pytest.skip("no service: give --hermes-hw-address or --hermes-hw-command")
    return Target("under test", address=address, command=shlex.split(command))


@pytest.fixture(scope="session")
def hermes_hw_kit(request: pytest.FixtureRequest, hermes_hw_target: Target) -> Iterator[Kit]:
    """Return what cases work with."""
    kit = Kit(hermes_hw_target, seed=request.config.getoption("--hermes-hw-seed", 1))
    yield kit
    kit.close()
