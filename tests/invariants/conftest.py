"""The process that forks commands, started once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from commands import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    server = Forks()
    yield server
    server.close()
