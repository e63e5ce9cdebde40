from __future__ import annotations

from hypothesis import HealthCheck, settings

# Two noisy cores: how long an example takes says nothing. Fixtures are reused between examples on
# purpose; each example uses rows of its own.
settings.register_profile(
    "livemirror",
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("livemirror")
