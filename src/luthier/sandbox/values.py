"""Plain data between two processes, as JSON: numbers, texts, bytes, and lists, tuples, sets and dicts of such."""

from __future__ import annotations

from typing import Any

MOST = 2**22  # bytes of a message


class NotPlain(TypeError):
    """A value that is no plain data."""


def to_json(value: Any) -> Any:
    """What ``from_json`` makes the same value of. Raises NotPlain."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [to_json(one) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[to_json(key), to_json(one)] for key, one in value.items()]}
    raise NotPlain(f"{type(value).__name__} is no plain data")


def from_json(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    ((kind, told),) = given.items()
    if kind == "complex":
        return complex(*told)
    if kind == "bytes":
        return bytes.fromhex(told)
    if kind == "dict":
        return {from_json(key): from_json(one) for key, one in told}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](from_json(one) for one in told)
