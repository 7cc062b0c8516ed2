"""Fuzz the live server from its own OpenAPI description with schemathesis. Fails when an answer is not as described.

Needs schemathesis beside hermes-core[serve]; `tox -e fuzz` has both. Arguments go to schemathesis.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from hermes_core.live.app import AppSettings
from hermes_core.live.clock import Speed
from hermes_core.live.server import ServeSettings
from hermes_core.live.testing import LiveThread
from hermes_core.testing import AffineStepModel, compiled_with, small_plan


def main() -> int:
    """Serve, fuzz, and see that the server is as it was before."""
    compiled = {"default": compiled_with(AffineStepModel(), max_model_len=8192)}
    settings = replace(ServeSettings(speed=Speed(None)), app=AppSettings(log_requests=False))
    with LiveThread(small_plan(clients=2), settings, compiled=compiled) as live:
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"{live.url}/openapi.json",
            # Dead replicas refuse what is right; and no schema says how long a context may be in tokens.
            "--exclude-path-regex", "/hermes/v1/replicas/.*", "--exclude-checks", "positive_data_acceptance",
            *sys.argv[1:],
        ]  # fmt: skip
        done = subprocess.run(command, check=False)
        left = live.call(lambda: (live.service.pacer.broken, live.service.pacer.open, live.server.session.live))
    if left != (None, 0, 0):
        print(f"the server is not as it was before: {left}", file=sys.stderr)
        return 1
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
