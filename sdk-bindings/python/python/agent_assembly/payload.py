"""Turns whatever a call carries into the JSON text that is checked.

Every string must be in it, because what is not in it is not scanned.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import json
import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

__all__ = ["strings_of", "to_json"]

_encode = json.JSONEncoder(
    ensure_ascii=False,
    check_circular=True,
    allow_nan=False,
    separators=(",", ":"),
    default=lambda value: _plain(value),
).encode


def to_json(value: object) -> str:
    """Encodes any value; objects JSON does not know are taken apart, never left out."""
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError):
        # Odd keys, NaN, a cycle: rebuilt piece by piece.
        text = _encode(_rebuilt(value, ()))
    if text.isascii():
        return text
    # A lone surrogate is no text on the wire.
    return text.encode("utf-8", "replace").decode("utf-8")


def strings_of(value: object) -> Iterator[str]:
    """Every string of a JSON-like value, keys included; JSON texts among them are looked into too."""
    if isinstance(value, str):
        yield value
        if value[:1] in ("{", "["):
            try:
                inner = json.loads(value)
            except ValueError:
                return
            yield from strings_of(inner)
    elif isinstance(value, Mapping):
        for key, member in value.items():
            yield str(key)
            yield from strings_of(member)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings_of(item)


def _plain(value: object) -> object:
    """One layer of an object as something JSON knows, or knows how to ask about."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text_of_bytes(bytes(value))
    if isinstance(value, enum.Enum):
        return cast(object, value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (AbstractSet, range)):
        return list(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    for method in ("model_dump", "to_dict", "tolist"):
        plain = _called(value, method)
        if plain is not _NOTHING:
            return plain
    described: dict[str, object] = {"object": type(value).__name__, "text": str(value)}
    described.update(getattr(value, "__dict__", None) or {})
    return described


_NOTHING = object()


def _called(value: object, method: str) -> object:
    function: Callable[[], object] | None = getattr(value, method, None)
    if not callable(function):
        return _NOTHING
    try:
        return function()
    except Exception:
        return _NOTHING


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        # Neither form alone would let a pattern find text and keep the rest in view.
        return value.decode("utf-8", "replace") if len(value) < 65536 else _base64(value)


def _base64(value: bytes) -> str:
    return "base64:" + base64.b64encode(value).decode("ascii")


def _rebuilt(value: object, above: tuple[int, ...]) -> object:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if id(value) in above or len(above) > 60:
        return f"<{type(value).__name__}>"
    above = (*above, id(value))
    if isinstance(value, Mapping):
        members: dict[str, Any] = {}
        for key, member in value.items():
            name = key if isinstance(key, str) else str(key)
            while name in members:
                name += "'"
            members[name] = _rebuilt(member, above)
        return members
    if isinstance(value, (list, tuple)):
        return [_rebuilt(item, above) for item in value]
    return _rebuilt(_plain(value), above)
