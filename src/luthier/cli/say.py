"""What goes out and comes in as text."""

from __future__ import annotations

import json
import sys
from typing import Any

from luthier.types import Finding, Refused


def say(value: Any) -> None:
    """JSON on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_told))


def _told(value: Any) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def given_value(option: str, text: str) -> Any:
    """What an option holds: a name or a path as it is, ``{...}`` or ``[...]`` as in a recipe. Raises Refused."""
    if not text.startswith(("{", "[")):
        return text
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        what = f"not readable as YAML: {' '.join(str(error).split())}"
        raise Refused(Finding("recipe.yaml", option, what, "close each bracket, and quote the whole")) from None


def given_lines() -> list[str]:
    """The lines of standard input, empty ones left out."""
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]
