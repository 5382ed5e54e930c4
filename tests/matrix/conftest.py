"""What several of these tables share."""

from __future__ import annotations

import pytest

from luthier.evaluate import classification
from luthier.tasks.language import LanguageTask


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere; here they would be most of the time."""
    monkeypatch.setattr(classification, "F1_RESAMPLES", 2)


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends an answer, so that its samples would be a third of the time: 16 tokens, not 64."""
    monkeypatch.setattr(LanguageTask, "sample_options", {"max_new_tokens": 16})
