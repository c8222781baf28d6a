"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No test asserts a time: the machines are shared, and a slow moment is no failure.
settings.register_profile("lopower", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lopower")
