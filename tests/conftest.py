"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no failure: what must be quick has a limit of its own.
settings.register_profile("default-without-deadline", deadline=None)
settings.load_profile("default-without-deadline")
