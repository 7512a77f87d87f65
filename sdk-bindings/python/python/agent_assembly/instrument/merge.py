"""Puts the pieces of a streamed answer together, so that nothing hides on a seam between two pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["decoded_arguments", "merged", "server_sent_events"]

#: Members that repeat in every piece and are not pieces of a text.
_CONSTANT = frozenset(
    {"id", "item_id", "model", "object", "role", "service_tier", "system_fingerprint", "type"}
)
#: Members of a piece that tell which text it continues.
_WHICH = ("type", "event", "item_id", "output_index", "content_index", "summary_index", "index")


def server_sent_events(text: str) -> list[Any]:
    """The events of a `text/event-stream` body: JSON where it is JSON, else the text."""
    events: list[Any] = []
    for block in text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        data = "\n".join(lines)
        if not data or data == "[DONE]":
            continue
        try:
            events.append(json.loads(data))
        except ValueError:
            events.append(data)
    return events


def merged(pieces: Iterable[Any]) -> list[Any]:
    """Every text of the pieces, each put together from all pieces that continue it; every key once."""
    texts: dict[tuple[Any, ...], list[str]] = {}
    keys: dict[str, None] = {}
    for piece in pieces:
        start: tuple[Any, ...] = ()
        if isinstance(piece, Mapping):
            start = tuple(_hashable(piece.get(which)) for which in _WHICH)
        _gather(piece, start, texts, keys)
    whole = [_decoded("".join(parts)) for parts in texts.values()]
    return [*dict.fromkeys(text for text in whole if isinstance(text, str)),
            *(text for text in whole if not isinstance(text, str)),
            *(key for key in keys if key not in _PLAIN_KEYS)]


def decoded_arguments(value: Any) -> Any:
    """The same value with tool calls' `arguments` as the JSON they are the text of, so that an escape
    in them hides nothing."""
    if isinstance(value, Mapping):
        return {
            key: _decoded(member)
            if key == "arguments" and isinstance(member, str)
            else decoded_arguments(member)
            for key, member in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [decoded_arguments(item) for item in value]
    return value


_PLAIN_KEYS = _CONSTANT | {
    "arguments", "choices", "completion_tokens", "content", "content_index", "created", "delta",
    "finish_reason", "function", "index", "logprobs", "name", "output", "output_index", "part",
    "prompt_tokens", "refusal", "response", "sequence_number", "text", "tool_calls", "total_tokens",
    "usage",
}  # fmt: skip


def _gather(
    value: Any, path: tuple[Any, ...], texts: dict[tuple[Any, ...], list[str]], keys: dict[str, None]
) -> None:
    if isinstance(value, str):
        parts = texts.setdefault(path, [])
        repeats = bool(path) and path[-1] in _CONSTANT and value in parts
        if not repeats:
            parts.append(value)
    elif isinstance(value, Mapping):
        for key, member in value.items():
            keys[str(key)] = None
            _gather(member, (*path, key), texts, keys)
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            place = item.get("index", position) if isinstance(item, Mapping) else position
            _gather(item, (*path, _hashable(place)), texts, keys)


def _decoded(text: str) -> Any:
    if text[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (str, int, type(None))) else str(value)
