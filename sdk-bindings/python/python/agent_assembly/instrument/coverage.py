"""Keeps one call from being asked about twice when one governed library calls another."""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import dataclass

from ..payload import strings_of, to_json

__all__ = ["Covered", "covering"]

#: Words that providers' requests are made of; they carry nothing of the agent's.
_VOCABULARY = frozenset(
    """ai assistant arguments auto base64 content content_type developer encoding_format false float
    frequency_penalty function functions human id image_url include_usage index input input_text
    instructions json_object json_schema logprobs low high medium max_completion_tokens
    max_output_tokens max_tokens message messages n name none null object output_text
    parallel_tool_calls parameters presence_penalty prompt reasoning reasoning_effort required
    response_format role schema seed stop store stream stream_options strict string system temperature
    text tool tool_call_id tool_calls tool_choice tools top_p true type user value""".split()
)


@dataclass(frozen=True, slots=True)
class Covered:
    """A model call that was allowed and is being made.

    Attributes:
        model: The model it names.
        messages_json: All that was asked about.
    """

    model: str
    messages_json: str

    def covers(self, model: str, payload: object) -> bool:
        """Whether an inner call of the same model carries nothing that was not asked about."""
        if model != self.model:
            return False
        known = set(strings_of(json.loads(self.messages_json))) | _VOCABULARY
        return known.issuperset(strings_of(json.loads(to_json(payload))))


#: The model call that is being made further out.
covering: ContextVar[Covered | None] = ContextVar("agent_assembly_covering", default=None)
