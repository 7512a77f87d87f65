"""Governs LangChain's models: asks before the provider is called, and hands an answer on only once it was
looked at as a whole.

Models built on the OpenAI client are asked about there, with what really goes out; here it is only made
sure that they were.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..call import ModelCall, Usage, usage_of
from ..errors import InstrumentationError
from ..payload import to_json
from ..run import AgentRun, current_run
from .coverage import Covered, covering
from .merge import merged
from .openai import reached

__all__ = ["METHODS", "Guard", "governed_method"]

Method = Callable[..., Any]

#: What providers implement of a model.
METHODS = (
    "_generate",
    "_agenerate",
    "_stream",
    "_astream",
    "_stream_chat_model_events",
    "_astream_chat_model_events",
)


def governed_method(cls: type, name: str, method: Method) -> Method:
    on_openai = any(
        base.__module__.startswith("langchain_openai.") and base.__name__ in ("BaseChatOpenAI", "BaseOpenAI")
        for base in cls.__mro__
    )
    if inspect.isasyncgenfunction(method) or (name.startswith("_astream") and not _is_coroutine(method)):
        return _relying_async_stream(method) if on_openai else _async_stream(method)
    if name in ("_stream", "_stream_chat_model_events"):
        return _relying_stream(method) if on_openai else _stream(method)
    if inspect.iscoroutinefunction(method):
        return _relying_async(method) if on_openai else _asynchronous(method)
    return _relying(method) if on_openai else _synchronous(method)


def _is_coroutine(method: Method) -> bool:
    return inspect.iscoroutinefunction(method)


class Guard:
    """One call of a model, and the mark that keeps what it calls from being asked about again."""

    __slots__ = ("call", "covered")

    def __init__(self, run: AgentRun, model: Any, messages: object, kwargs: Mapping[str, Any]) -> None:
        name = _model_name(model)
        asked = {k: v for k, v in kwargs.items() if k not in ("run_manager", "stop")}
        stop = kwargs.get("stop")
        payload: object = messages
        if asked or stop:
            payload = {"messages": messages, **asked, **({"stop": stop} if stop else {})}
        self.covered = Covered(name, to_json(payload))
        limit = kwargs.get("max_tokens", getattr(model, "max_tokens", None))
        limit = limit if isinstance(limit, int) and limit > 0 else None
        choices = kwargs.get("n", getattr(model, "n", None))
        choices = choices if isinstance(choices, int) and choices > 0 else None
        self.call = ModelCall(run, name, _host(model), payload, limit, choices)

    @staticmethod
    def of(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Guard | None:
        """The guard of a call, or none when it need not be asked about."""
        run = current_run()
        if run is None:
            return None
        messages = args[0] if args else kwargs.get("messages", kwargs.get("prompts", kwargs.get("prompt")))
        named = {k: v for k, v in kwargs.items() if k not in ("messages", "prompts", "prompt")}
        if len(args) > 1:
            named.setdefault("stop", args[1])
        outer = covering.get()
        if outer is not None and outer.covers(_model_name(model), messages):
            return None
        return Guard(run, model, messages, named)


def _synchronous(method: Method) -> Method:
    @functools.wraps(method)
    def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard = Guard.of(self, args, kwargs)
        if guard is None:
            return method(self, *args, **kwargs)
        guard.call.begin()
        token = covering.set(guard.covered)
        try:
            result = method(self, *args, **kwargs)
        except BaseException as error:
            guard.call.failed(error)
            raise
        finally:
            covering.reset(token)
        guard.call.ended()
        guard.call.examine(*_result(result))
        return result

    return governed


def _asynchronous(method: Method) -> Method:
    @functools.wraps(method)
    async def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard = Guard.of(self, args, kwargs)
        if guard is None:
            return await method(self, *args, **kwargs)
        await guard.call.begin_async()
        token = covering.set(guard.covered)
        try:
            result = await method(self, *args, **kwargs)
        except BaseException as error:
            await guard.call.failed_async(error)
            raise
        finally:
            covering.reset(token)
        guard.call.ended()
        await guard.call.examine_async(*_result(result))
        return result

    return governed


def _stream(method: Method) -> Method:
    @functools.wraps(method)
    def governed(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if current_run() is None:
            yield from method(self, *args, **kwargs)
            return
        guard = Guard.of(self, args, kwargs)
        # Callbacks get each token only once it was looked at.
        args, kwargs, manager = _without_manager(args, kwargs)
        if guard is None:
            yield from method(self, *args, **kwargs)
            return
        guard.call.begin()
        token = covering.set(guard.covered)
        try:
            chunks = list(method(self, *args, **kwargs))
        except BaseException as error:
            guard.call.failed(error)
            raise
        finally:
            covering.reset(token)
        guard.call.ended()
        guard.call.examine(*_merged_chunks(chunks))
        for chunk in chunks:
            if manager is not None and hasattr(chunk, "text"):
                manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    return governed


def _async_stream(method: Method) -> Method:
    @functools.wraps(method)
    async def governed(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        guard = None
        manager = None
        if current_run() is not None:
            guard = Guard.of(self, args, kwargs)
            args, kwargs, manager = _without_manager(args, kwargs)
        if guard is None:
            async for chunk in method(self, *args, **kwargs):
                yield chunk
            return
        await guard.call.begin_async()
        token = covering.set(guard.covered)
        try:
            chunks = [chunk async for chunk in method(self, *args, **kwargs)]
        except BaseException as error:
            await guard.call.failed_async(error)
            raise
        finally:
            covering.reset(token)
        guard.call.ended()
        await guard.call.examine_async(*_merged_chunks(chunks))
        for chunk in chunks:
            if manager is not None and hasattr(chunk, "text"):
                await manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    return governed


# Models on the OpenAI client


class _Reliance:
    """Makes sure that a call was asked about by the OpenAI client's own governance."""

    __slots__ = ("_counter", "_model")

    def __init__(self, model: Any) -> None:
        self._model = model
        self._counter = [0]

    @staticmethod
    def of(model: Any) -> _Reliance | None:
        needed = current_run() is not None and reached.get() is None and covering.get() is None
        return _Reliance(model) if needed else None

    def __enter__(self) -> None:
        reached.set(self._counter)

    def __exit__(self, *_: object) -> None:
        reached.set(None)

    def require(self) -> None:
        if not self._counter[0]:
            raise InstrumentationError(
                f"the answer of `{_model_name(self._model)}` was withheld: it did not come through the "
                "OpenAI client, so its call was not governed. Use the client LangChain makes itself"
            )


def _relying(method: Method) -> Method:
    @functools.wraps(method)
    def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        reliance = _Reliance.of(self)
        if reliance is None:
            return method(self, *args, **kwargs)
        with reliance:
            result = method(self, *args, **kwargs)
        reliance.require()
        return result

    return governed


def _relying_async(method: Method) -> Method:
    @functools.wraps(method)
    async def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        reliance = _Reliance.of(self)
        if reliance is None:
            return await method(self, *args, **kwargs)
        with reliance:
            result = await method(self, *args, **kwargs)
        reliance.require()
        return result

    return governed


def _relying_stream(method: Method) -> Method:
    @functools.wraps(method)
    def governed(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        reliance = _Reliance.of(self)
        if reliance is None:
            yield from method(self, *args, **kwargs)
            return
        chunks = iter(method(self, *args, **kwargs))
        while True:
            with reliance:
                chunk = next(chunks, _END)
            reliance.require()
            if chunk is _END:
                return
            yield chunk

    return governed


def _relying_async_stream(method: Method) -> Method:
    @functools.wraps(method)
    async def governed(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        reliance = _Reliance.of(self)
        if reliance is None:
            async for chunk in method(self, *args, **kwargs):
                yield chunk
            return
        chunks = aiter(method(self, *args, **kwargs))
        while True:
            with reliance:
                chunk = await anext(chunks, _END)
            reliance.require()
            if chunk is _END:
                return
            yield chunk

    return governed


_END = object()


# What models tell about themselves and their answers


def _model_name(model: Any) -> str:
    for attribute in ("model_name", "model", "model_id", "deployment_name", "deployment"):
        name = getattr(model, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(model).__name__


def _host(model: Any) -> str | None:
    for attribute in ("base_url", "openai_api_base", "anthropic_api_url", "azure_endpoint", "endpoint_url", "endpoint"):
        url = getattr(model, attribute, None)
        if isinstance(url, str) and url:
            return urlsplit(url if "//" in url else f"//{url}").hostname
    return None


def _without_manager(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    if len(args) > 2:
        return (*args[:2], None, *args[3:]), kwargs, args[2]
    return args, {k: v for k, v in kwargs.items() if k != "run_manager"}, kwargs.get("run_manager")


def _result(result: Any) -> tuple[Any, Usage | None]:
    """What a `ChatResult` or `LLMResult` tells the agent, and the tokens it cost."""
    generations = [
        generation
        for entry in result.generations
        for generation in (entry if isinstance(entry, list) else [entry])
    ]
    content = [getattr(generation, "message", generation) for generation in generations]
    usages = [getattr(message, "usage_metadata", None) for message in content]
    usage = next(filter(None, usages), None) or (result.llm_output or {}).get("token_usage")
    return content, usage_of(usage)


def _merged_chunks(chunks: list[Any]) -> tuple[Any, Usage | None]:
    if not chunks:
        return [], None
    if any(isinstance(chunk, Mapping) for chunk in chunks):
        return merged(chunks), None
    whole = functools.reduce(operator.add, chunks)
    message = getattr(whole, "message", None)
    if message is None:
        return whole.text, None
    return message, usage_of(getattr(message, "usage_metadata", None))
