"""A small OpenAI-compatible server: a peer whose answers a test scripts, and that remembers what it was sent.

Run alone it serves until it is stopped, and prints its address: `python openai_server.py [PORT]`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One scripted answer of the model.

    Attributes:
        text: What it says.
        tool_calls: Tools it wants called: name and arguments.
        chunks: Its text in the pieces a stream brings; by default three characters each.
        status: An HTTP status; not 200 answers with an error that says `text`, which is also where a
            redirect leads.
    """

    text: str = "Hello from the model."
    tool_calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    chunks: list[str] | None = None
    status: int = 200


class OpenAIServer:
    """Serves `/v1` on a free port of this machine."""

    def __init__(self, port: int = 0) -> None:
        self.replies: deque[Reply] = deque()
        self.requests: list[tuple[str, Any]] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def start(self) -> OpenAIServer:
        """Serves in a thread of its own."""
        self._thread.start()
        return self

    def wait(self) -> None:
        """Serves until the process is stopped."""
        self._thread.join()

    def stop(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()

    def script(self, *replies: Reply) -> None:
        """Sets the next answers; after them the default one is given."""
        self.requests.clear()
        self.replies = deque(replies)

    def next_reply(self) -> Reply:
        """The answer to the request at hand."""
        return self.replies.popleft() if self.replies else Reply()


class _Handler(BaseHTTPRequestHandler):
    owner: OpenAIServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.owner.requests.append((self.path, None))
        self._json({"object": "list", "data": [{"id": "gpt-4o", "object": "model", "created": 1, "owned_by": "test"}]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            body = json.loads(raw)
        except ValueError:
            body = {"raw": raw.decode("utf-8", "replace")}
        self.owner.requests.append((self.path, body))
        reply = self.owner.next_reply()
        if reply.status != 200:
            self._json({"error": {"message": reply.text, "type": "scripted"}}, reply.status, reply.text)
        elif self.path.endswith("/chat/completions"):
            self._chat_stream(body, reply) if body.get("stream") else self._json(_chat(body, reply))
        elif self.path.endswith("/responses"):
            self._responses_stream(body, reply) if body.get("stream") else self._json(_response(body, reply))
        elif self.path.endswith("/embeddings"):
            self._json(_embeddings(body))
        elif self.path.endswith("/completions"):
            choice = {"index": 0, "text": reply.text, "finish_reason": "stop", "logprobs": None}
            self._json({"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"],
                        "choices": [choice], "usage": _USAGE})
        else:
            self._json({"error": {"message": f"no such path: {self.path}"}}, 404)

    def _json(self, body: Any, status: int = 200, location: str = "") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("location", location)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _events(self, events: list[Any], last: str | None) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            name = f"event: {event['type']}\n" if "type" in event else ""
            self.wfile.write(f"{name}data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        if last is not None:
            self.wfile.write(f"data: {last}\n\n".encode())
        self.close_connection = True

    def _chat_stream(self, body: Any, reply: Reply) -> None:
        def chunk(delta: Any, finish: str | None = None) -> Any:
            choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
            return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
                    "model": body["model"], "choices": [choice]}

        events = [chunk({"role": "assistant", "content": ""})]
        if reply.tool_calls:
            for index, call in enumerate(_tool_calls(reply)):
                events.append(chunk({"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}))
                for piece in _pieces(call["function"]["arguments"]):
                    events.append(chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
            events.append(chunk({}, "tool_calls"))
        else:
            events += [chunk({"content": piece}) for piece in reply.chunks or _pieces(reply.text)]
            events.append(chunk({}, "stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({**chunk({}), "choices": [], "usage": _USAGE})
        self._events(events, "[DONE]")

    def _responses_stream(self, body: Any, reply: Reply) -> None:
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        whole = _response(body, reply)
        events = [{"type": "response.created", "response": {**whole, "output": [], "status": "in_progress"}}]
        events += [
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in reply.chunks or _pieces(reply.text)
        ]
        events.append({"type": "response.completed", "response": whole})
        self._events([{**event, "sequence_number": number} for number, event in enumerate(events)], None)


_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def _pieces(text: str) -> list[str]:
    return [text[start : start + 3] for start in range(0, len(text), 3)]


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for index, (name, arguments) in enumerate(reply.tool_calls)
    ]


def _chat(body: Any, reply: Reply) -> Any:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message |= {"content": None, "tool_calls": _tool_calls(reply)}
    finish = "tool_calls" if reply.tool_calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [choice], "usage": _USAGE}


def _response(body: Any, reply: Reply) -> Any:
    text = {"type": "output_text", "text": reply.text, "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}
    return {"id": "resp_1", "object": "response", "created_at": 1, "model": body["model"], "status": "completed",
            "output": [message], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
            "usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18,
                      "input_tokens_details": {"cached_tokens": 0},
                      "output_tokens_details": {"reasoning_tokens": 0}}}


def _embeddings(body: Any) -> Any:
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    if inputs and isinstance(inputs[0], int):
        inputs = [inputs]
    data = [{"object": "embedding", "index": index, "embedding": [0.5, 0.25]} for index in range(len(inputs))]
    if body.get("encoding_format") == "base64":
        for item in data:
            item["embedding"] = "AAAAPwAAgD4="
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 3, "total_tokens": 3}}


if __name__ == "__main__":
    server = OpenAIServer(int(sys.argv[1]) if len(sys.argv) > 1 else 0).start()
    print(server.url, flush=True)
    server.wait()
