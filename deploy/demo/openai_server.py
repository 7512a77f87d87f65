"""A small server of the OpenAI chat completions API, for machines that reach no provider.

It answers by the conversation: the last question decides whether it calls one of the tools it was
offered; once a tool has answered, it closes with text. Plain and streamed answers, as a provider gives
them. It listens on a free port of 127.0.0.1 and prints its base URL as its first line.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY = 1 << 20

ABOUT = (
    "AI Agent Assembly governs AI agents while they run. Every tool call and every model call is decided "
    "against the organisation's policies before it happens, by an actor that belongs to that one agent. "
    "The decision is written to a tamper-evident audit log before the answer leaves, so an enterprise can "
    "show afterwards what its agents did, what they were kept from doing, and which line of which policy "
    "said so."
)


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: dict[str, Any]


def reply_to(messages: list[dict[str, Any]], offered: set[str]) -> ToolCall | str:
    """What the model says next: a tool to call, or text."""
    last = messages[-1] if messages else {}
    if last.get("role") == "tool":
        return f"Here is what I found. {last.get('content')}"
    question = str(last.get("content")).lower()
    if "disk" in question and "execute_shell" in offered:
        return ToolCall("execute_shell", {"command": "df -h / > disk.txt"})
    if "runbook" in question and "read_document" in offered:
        return ToolCall("read_document", {"name": "runbook.txt"})
    if "governance" in question and "summarise_text" in offered:
        return ToolCall("summarise_text", {"text": ABOUT})
    return "I have nothing to add."


def completion(request: dict[str, Any], said: ToolCall | str) -> dict[str, Any]:
    """The answer as one object."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if isinstance(said, ToolCall):
        message["tool_calls"] = [_tool_call(said)]
    else:
        message["content"] = said
    return {
        **_head(request, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(said)}],
        "usage": _usage(request, said),
    }


def chunks(request: dict[str, Any], said: ToolCall | str) -> Iterator[dict[str, Any]]:
    """The answer as it is streamed: the role, then piece after piece, then the end."""
    head = _head(request, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    if isinstance(said, ToolCall):
        yield chunk({"tool_calls": [{"index": 0, **_tool_call(said)}]})
    else:
        for word in re.findall(r"\s*\S+|\s+$", said):
            yield chunk({"content": word})
    yield chunk({}, _finish(said))
    if (request.get("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(request, said)}


def _head(request: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:24]}",
        "object": kind,
        "created": int(time.time()),
        "model": request.get("model", "gpt-4o"),
    }


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
    }


def _finish(said: ToolCall | str) -> str:
    return "tool_calls" if isinstance(said, ToolCall) else "stop"


def _usage(request: dict[str, Any], said: ToolCall | str) -> dict[str, int]:
    # A token is about four characters.
    sent, received = len(json.dumps(request.get("messages"))) // 4, len(str(said)) // 4
    return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_POST(self) -> None:
        if self.path != "/v1/chat/completions":
            self._send_error(404, f"there is no {self.path} here")
            return
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_BODY:
            self._send_error(413, f"the body must have 1 to {MAX_BODY} bytes")
            return
        try:
            request = json.loads(self.rfile.read(length))
            offered = {offer["function"]["name"] for offer in request.get("tools", [])}
            said = reply_to(request["messages"], offered)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._send_error(400, f"not a chat completion request: {error!r}")
            return
        if request.get("stream"):
            self._stream(chunks(request, said))
        else:
            self._send(200, completion(request, said))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _send_error(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def _stream(self, events: Iterator[dict[str, Any]]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        """Requests are the agent's business; nothing is logged."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
