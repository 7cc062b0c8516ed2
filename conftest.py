"""What holds for all tests: an example may take as long as a busy machine needs for it."""

import contextlib

with contextlib.suppress(ModuleNotFoundError):
    from hypothesis import HealthCheck, settings

    settings.register_profile("hermes", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("hermes")
