"""What goes out and comes in as text."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(value: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def given_lines() -> list[str]:
    """The lines of standard input, empty ones left out."""
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]
