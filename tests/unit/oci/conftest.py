"""Property tests on a machine that others use too: no deadline, and as many examples as half a minute holds."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("oci", deadline=None, max_examples=60, database=None)
settings.load_profile("oci")
