"""What is asked about holds every string, however it is wrapped."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

import pytest

from agent_assembly.errors import GovernedAction, Reason, explain
from agent_assembly.instrument.coverage import Covered
from agent_assembly.instrument.merge import merged, server_sent_events
from agent_assembly.payload import strings_of, to_json

MARK = "find-me"


@dataclasses.dataclass
class Record:
    text: str


class Colour(enum.Enum):
    MARKED = MARK


class Opaque:
    def __init__(self) -> None:
        self.hidden = [MARK]


class Dumping:
    def model_dump(self) -> dict[str, str]:
        return {"inner": MARK}


@pytest.mark.parametrize(
    "value",
    [
        MARK,
        {MARK: 1},
        {"a": [{"b": (MARK,)}]},
        Record(MARK),
        Colour.MARKED,
        Opaque(),
        Dumping(),
        {MARK},
        MARK.encode(),
        b"\xff" + MARK.encode(),
        ValueError(MARK),
        {(1, MARK): 2},
        {1: "a", "1": MARK, "nan": float("nan")},
        [Opaque(), {object(): MARK}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_string_is_in_the_text(value: Any) -> None:
    text = to_json(value)
    assert MARK in text
    _without_duplicates(text)


def test_cycles_and_surrogates_do_not_stop_the_question() -> None:
    cycle: dict[str, Any] = {"text": MARK}
    cycle["self"] = cycle
    assert MARK in to_json(cycle)
    assert "\ud800" not in to_json("\ud800")


def test_two_keys_that_look_alike_stay_two() -> None:
    assert sorted(_without_duplicates(to_json({1: "a", "1": "b", (1,): "c"})).values()) == ["a", "b", "c"]


def test_strings_inside_json_texts_are_found() -> None:
    assert MARK in set(strings_of({"arguments": json.dumps({"x": [MARK]})}))


def test_a_secret_on_a_seam_is_put_together() -> None:
    def chunk(index: int, content: str) -> str:
        return json.dumps({"choices": [{"index": index, "delta": {"content": content}}]})

    body = "".join(f"data: {chunk(*piece)}\r\n\r\n" for piece in [(0, "find"), (1, "other"), (0, "-me")]) + "data: [DONE]\n\n"
    assert MARK in merged(server_sent_events(body))
    pieces = [
        {"type": "response.function_call_arguments.delta", "item_id": "a", "delta": piece}
        for piece in ('{"x": "fi', 'nd\\u002dme"}')
    ]
    assert {"x": MARK} in merged(pieces)


def test_an_inner_call_is_covered_only_by_all_it_carries() -> None:
    covered = Covered("m", to_json([{"content": "hello", "args": {"city": "Taipei"}}]))
    request = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    assert covered.covers("m", request)
    assert covered.covers("m", {"arguments": '{"city": "Taipei"}'}) is False, "an unseen text, even if its parts were seen"
    assert not covered.covers("other", request)
    assert not covered.covers("m", {**request, "user": "someone"})


def test_an_error_names_policy_line_and_what_to_do() -> None:
    reason = Reason("tool_denied", "starter", 3, "1.0.0", "spec.tools.bash.allow", 12, 7, "the tool is not allowed")
    text = explain("deny", GovernedAction("tool_call", "bash"), [reason], "evt_1")
    assert text.splitlines() == [
        "tool_call `bash` was denied",
        "  because policy `starter` (revision 3), line 12, spec.tools.bash.allow: the tool is not allowed [tool_denied]",
        "  to go on: use another tool, or have the policy allow this one",
        "  audit event: evt_1",
    ]


def _without_duplicates(text: str) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=members)
