"""Governs the OpenAI client (1.0 and later) where every one of its requests passes: below all resources,
above the retries. What is asked about is what goes out, to the host it goes to; what comes back is read
to its end and looked at before any of it is handed on, streams included.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from .._native import Action
from ..call import ModelCall, Usage, usage_of
from ..errors import GovernedAction, InstrumentationError
from ..run import AgentRun, current_run
from .coverage import covering
from .merge import decoded_arguments, merged, server_sent_events

__all__ = ["PATCHES", "reached"]

#: Counts the governed requests of an outer call, for one that relies on them.
reached: ContextVar[list[int] | None] = ContextVar("agent_assembly_reached", default=None)

_exchange: ContextVar[_Exchange | None] = ContextVar("agent_assembly_exchange", default=None)
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_BINARY = ("audio/", "image/", "video/")
#: Hosts whose streams tell their usage when `stream_options` ask for it.
_TELL_USAGE = (".openai.com", ".openai.azure.com")


class _Exchange:
    """One request and its response."""

    __slots__ = ("_asked_usage", "_call", "_connect", "_covered", "_path", "_run", "examined")

    def __init__(self, run: AgentRun, client: Any, options: Any) -> None:
        url = client._prepare_url(options.url)
        # A redirect would carry the request to a host nobody was asked about.
        if "follow_redirects" in type(options).model_fields:
            options.follow_redirects = False
        self._run = run
        self._path = str(url.path)
        self._covered = False
        self._asked_usage = False
        self._connect: Action | None = None
        self.examined = False
        body = _body(options)
        model = str(body.get("model") or self._path.strip("/"))
        if body:
            _refuse_unreadable(body)
            limit = next((body[name] for name in _LIMITS if isinstance(body.get(name), int)), None)
            outer = covering.get()
            payload = {name: member for name, member in body.items() if name != "model"}
            self._covered = outer is not None and outer.covers(model, payload)
            if not self._covered:
                _refuse_tokens(body)
                self._asked_usage = _ask_for_usage(options, url)
        else:
            payload, limit = body, None
            port = url.port or (443 if url.scheme == "https" else 80)
            self._connect = Action.network_connect(url.host, port)
        choices = body.get("n") if isinstance(body.get("n"), int) else None
        self._call = ModelCall(run, model, url.host, payload, limit, choices)
        counter = reached.get()
        if counter is not None:
            counter[0] += 1

    def begin(self) -> None:
        if self._connect is not None:
            self._run.check(self._connect, self._connection())
        elif not self._covered:
            self._call.begin()

    async def begin_async(self) -> None:
        if self._connect is not None:
            await self._run.check_async(self._connect, self._connection())
        elif not self._covered:
            await self._call.begin_async()

    def examine(self, response: Any) -> None:
        self.examined = True
        if self._covered:
            return
        if _is_binary(response):
            self._call.examine({"content_type": _content_type(response)})
            return
        response.read()
        self._call.examine(*_content(response, self._path))
        if self._asked_usage:
            _strip_usage(response)

    async def examine_async(self, response: Any) -> None:
        self.examined = True
        if self._covered:
            return
        if _is_binary(response):
            await self._call.examine_async({"content_type": _content_type(response)})
            return
        await response.aread()
        await self._call.examine_async(*_content(response, self._path))
        if self._asked_usage:
            _strip_usage(response)

    def failed(self, error: BaseException) -> None:
        if not self._covered:
            self._call.failed(error)

    async def failed_async(self, error: BaseException) -> None:
        if not self._covered:
            await self._call.failed_async(error)

    def ended(self) -> None:
        if not self.examined:
            raise InstrumentationError(
                f"the answer of `{self._call.model}` was withheld: this version of the OpenAI client "
                "hands it on in an unknown way"
            )
        if not self._covered:
            self._call.ended()

    def _connection(self) -> GovernedAction:
        return GovernedAction("network_connect", self._call.host or "")


def _patch_base_client(module: ModuleType) -> None:
    for name in ("request", "_process_response", "_prepare_url"):
        for client in (module.SyncAPIClient, module.AsyncAPIClient):
            if not callable(getattr(client, name, None)):
                raise AttributeError(f"{client.__name__} has no {name}")
    _patch_sync(module.SyncAPIClient)
    _patch_async(module.AsyncAPIClient)


def _patch_sync(client: Any) -> None:
    request, process = client.request, client._process_response

    @functools.wraps(request)
    def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = current_run()
        if run is None:
            return request(self, *args, **kwargs)
        exchange = _Exchange(run, self, _options(args, kwargs))
        exchange.begin()
        token = _exchange.set(exchange)
        try:
            result = request(self, *args, **kwargs)
        except BaseException as error:
            exchange.failed(error)
            raise
        finally:
            _exchange.reset(token)
        exchange.ended()
        return result

    @functools.wraps(process)
    def examined(self: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _exchange.get()
        if exchange is not None:
            exchange.examine(kwargs["response"])
        return process(self, *args, **kwargs)

    client.request, client._process_response = governed, examined


def _patch_async(client: Any) -> None:
    request, process = client.request, client._process_response

    @functools.wraps(request)
    async def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = current_run()
        if run is None:
            return await request(self, *args, **kwargs)
        exchange = _Exchange(run, self, _options(args, kwargs))
        await exchange.begin_async()
        token = _exchange.set(exchange)
        try:
            result = await request(self, *args, **kwargs)
        except BaseException as error:
            await exchange.failed_async(error)
            raise
        finally:
            _exchange.reset(token)
        exchange.ended()
        return result

    @functools.wraps(process)
    async def examined(self: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _exchange.get()
        if exchange is not None:
            await exchange.examine_async(kwargs["response"])
        return await process(self, *args, **kwargs)

    client.request, client._process_response = governed, examined


def _patch_resources(module: ModuleType) -> None:
    """A WebSocket's messages pass no request, so inside an agent none is opened."""
    for name, connection in list(vars(module).items()):
        if not name.endswith("ConnectionManager") or not isinstance(connection, type):
            continue
        if connection.__module__ != module.__name__:
            continue
        for method in ("__enter__", "enter", "__aenter__"):
            own = vars(connection).get(method)
            if callable(own):
                setattr(connection, method, _refusing(name, own))


def _refusing(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def refused(self: Any, *args: Any, **kwargs: Any) -> Any:
        if current_run() is not None:
            raise InstrumentationError(
                f"{name} was not opened: what passes through a WebSocket cannot be governed yet. Use "
                "the same model over HTTP"
            )
        return method(self, *args, **kwargs)

    return refused


def _check_version(module: ModuleType) -> None:
    version = str(getattr(module, "__version__", "0"))
    if version.split(".")[0] == "0":
        raise RuntimeError(f"openai {version} is older than 1.0")


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "openai": _check_version,
    "openai._base_client": _patch_base_client,
    "openai.resources.": _patch_resources,
}


def _options(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs["options"] if "options" in kwargs else args[1]


def _body(options: Any) -> dict[str, Any]:
    """All that a request carries besides its address and credentials."""
    body: dict[str, Any] = {}
    sent = options.json_data
    if isinstance(sent, Mapping):
        body.update(sent)
    elif sent is not None:
        body["body"] = sent
    body.update(getattr(options, "extra_json", None) or {})
    content = getattr(options, "content", None)
    if content is not None:
        body["content"] = _readable(content)
    if options.files:
        files = options.files.items() if isinstance(options.files, Mapping) else options.files
        body["files"] = [[name, _readable(file)] for name, file in files]
    if body and options.params:
        body["query"] = dict(options.params)
    return body


def _readable(file: Any) -> Any:
    """What an upload holds, left as it was found."""
    if isinstance(file, tuple):
        return [_readable(part) for part in file]
    if hasattr(file, "read") and hasattr(file, "seek"):
        position = file.tell()
        content = file.read()
        file.seek(position)
        return content
    if isinstance(file, (str, bytes, bytearray, Mapping, type(None))):
        return file
    if hasattr(file, "__fspath__"):
        with io.open(file, "rb") as opened:
            return opened.read()
    return _UNREADABLE


_UNREADABLE = object()


def _refuse_unreadable(body: Mapping[str, Any]) -> None:
    if body.get("content") is _UNREADABLE or _UNREADABLE in (
        part for _, file in body.get("files", ()) for part in (file if isinstance(file, list) else [file])
    ):
        raise InstrumentationError(
            "the request was not made: what it sends can be read only once, so it cannot be checked. "
            "Pass bytes or an open file instead"
        )


def _refuse_tokens(body: Mapping[str, Any]) -> None:
    """Token ids are text that no pattern can find."""
    for name in ("input", "prompt"):
        value = body.get(name)
        while isinstance(value, (list, tuple)) and value:
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool):
            raise InstrumentationError(
                f"the request was not made: `{name}` holds token ids, which cannot be checked. Pass text"
            )


def _ask_for_usage(options: Any, url: Any) -> bool:
    """Has a stream tell what it cost, where the provider is known to: without it the whole reservation is charged."""
    sent = options.json_data
    if not isinstance(sent, Mapping) or not sent.get("stream") or "stream_options" in sent:
        return False
    if not str(url.path).endswith("/chat/completions") or not str(url.host).endswith(_TELL_USAGE):
        return False
    options.json_data = {**sent, "stream_options": {"include_usage": True}}
    return True


def _strip_usage(response: Any) -> None:
    """Takes out the event that came only because it was asked for here."""
    blocks = response.content.split(b"\n\n")
    kept = [block for block in blocks if not _is_usage_only(block)]
    response._content = b"\n\n".join(kept)


def _is_usage_only(block: bytes) -> bool:
    if not block.startswith(b"data:"):
        return False
    try:
        event = json.loads(block[len(b"data:") :])
    except ValueError:
        return False
    return isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))


def _is_binary(response: Any) -> bool:
    return _content_type(response).startswith(_BINARY)


def _content_type(response: Any) -> str:
    return str(response.headers.get("content-type", ""))


def _content(response: Any, path: str) -> tuple[Any, Usage | None]:
    """What a response tells the agent, and the tokens it cost."""
    text = response.content.decode("utf-8", "replace")
    if _content_type(response).startswith("text/event-stream"):
        events = server_sent_events(text)
        return merged(events), next(filter(None, map(_usage, reversed(events))), None)
    try:
        body = json.loads(text)
    except ValueError:
        return text, None
    usage = _usage(body)
    if isinstance(body, dict) and isinstance(body.get("data"), list):
        if path.endswith("/embeddings"):
            body["data"] = len(body["data"])
        elif "/images/" in path:
            body["data"] = [_without_image(item) for item in body["data"]]
    return decoded_arguments(body), usage


def _without_image(item: Any) -> Any:
    return {k: v for k, v in item.items() if k != "b64_json"} if isinstance(item, dict) else item


def _usage(body: Any) -> Usage | None:
    if not isinstance(body, Mapping):
        return None
    return usage_of(body.get("usage")) or _usage(body.get("response"))
