"""Commands in forks of a process that was started once."""

from __future__ import annotations

import pytest
from commands import Forks


@pytest.fixture(scope="session")
def forks() -> Forks:
    return Forks()
