"""What tests of the runtime share."""

import pytest

from raysim.runtime import storage
from tests.runtime import moody


@pytest.fixture
def moody_storage(monkeypatch, tmp_path):
    """An empty storage, no pauses, and working folders that the test can see."""
    moody.forget()
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
