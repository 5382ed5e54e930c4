"""What several of these tables share."""

from __future__ import annotations

import pytest

from luthier.evaluate import classification


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere; here they would be most of the time."""
    monkeypatch.setattr(classification, "F1_RESAMPLES", 2)
