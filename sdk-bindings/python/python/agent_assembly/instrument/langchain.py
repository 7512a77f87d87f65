"""Governs LangChain (`langchain_core` 0.1 to 1.x) where tools, models and embeddings are implemented:
in each subclass's own method, below everything that calls it and above the provider.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from ..call import ToolCall
from ..run import current_run
from . import langchain_models
from .coverage import covering
from .langchain_models import Guard

__all__ = ["PATCHES"]

Method = Callable[..., Any]
Wrap = Callable[[type, str, Method], Method]

_EMBEDDING_METHODS = ("embed_documents", "embed_query", "aembed_documents", "aembed_query")


def _patch_tools(module: ModuleType) -> None:
    _govern_implementations(module.BaseTool, ("_run", "_arun"), _tool_method)


def _patch_chat_models(module: ModuleType) -> None:
    _govern_implementations(module.BaseChatModel, langchain_models.METHODS, langchain_models.governed_method)


def _patch_llms(module: ModuleType) -> None:
    _govern_implementations(module.BaseLLM, langchain_models.METHODS, langchain_models.governed_method)


def _patch_embeddings(module: ModuleType) -> None:
    _govern_implementations(module.Embeddings, _EMBEDDING_METHODS, _embedding_method)


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "langchain_core.tools.base": _patch_tools,
    "langchain_core.language_models.chat_models": _patch_chat_models,
    "langchain_core.language_models.llms": _patch_llms,
    "langchain_core.embeddings.embeddings": _patch_embeddings,
}


def _govern_implementations(base: Any, methods: tuple[str, ...], wrap: Wrap) -> None:
    """Wraps the methods that subclasses of `base` define, those of later subclasses as they appear."""
    if not callable(getattr(base, methods[0], None)):
        raise AttributeError(f"{base.__name__} has no {methods[0]}")
    governed: set[Method] = set()

    def govern(cls: type) -> None:
        for name in methods:
            own = vars(cls).get(name)
            if inspect.isfunction(own) and own not in governed:
                wrapped = wrap(cls, name, own)
                governed.add(wrapped)
                setattr(cls, name, wrapped)

    for existing in _subclasses(base):
        govern(existing)
    original = vars(base).get("__init_subclass__")

    def __init_subclass__(cls: type, /, **kwargs: Any) -> None:
        if original is not None:
            original.__func__(cls, **kwargs)
        else:
            super(base, cls).__init_subclass__(**kwargs)
        govern(cls)

    base.__init_subclass__ = classmethod(__init_subclass__)


def _subclasses(cls: Any) -> Iterator[type]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


# Tools


def _tool_method(cls: type, name: str, method: Method) -> Method:
    def call(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolCall | None:
        run = current_run()
        if run is None:
            return None
        tool_call = ToolCall(run, self.name, _tool_arguments(self, args, kwargs))
        return None if tool_call.is_in_progress() else tool_call

    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def governed_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            tool_call = call(self, args, kwargs)
            if tool_call is None:
                return await method(self, *args, **kwargs)
            return await tool_call.make_async(lambda: method(self, *args, **kwargs))

        return governed_async

    @functools.wraps(method)
    def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        tool_call = call(self, args, kwargs)
        if tool_call is None:
            return method(self, *args, **kwargs)
        return tool_call.make(lambda: method(self, *args, **kwargs))

    return governed


def _tool_arguments(tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the model asked for: the arguments without what the framework adds."""
    given = {
        name: value
        for name, value in kwargs.items()
        if name not in ("run_manager", "callbacks") and not _is_config(name, value)
    }
    given = _without_injected(tool, given)
    if not args:
        return given
    names = list(getattr(tool, "args", None) or ())
    if len(args) == len(names):
        return {**dict(zip(names, args, strict=True)), **given}
    return {"input": args[0] if len(args) == 1 else list(args), **given}


def _without_injected(tool: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what the framework injects, such as its own state: the model did not ask with it."""
    filter_injected = getattr(tool, "_filter_injected_args", None)
    if callable(filter_injected):
        return dict(filter_injected(given))
    try:
        # Before LangChain 1.0.
        all_fields = set(tool.get_input_schema().model_fields)
        injected = all_fields - set(tool.tool_call_schema.model_fields)
    except (AttributeError, TypeError, NotImplementedError):
        return given
    return {name: value for name, value in given.items() if name not in injected}


def _is_config(name: str, value: object) -> bool:
    return (
        name == "config"
        and isinstance(value, Mapping)
        and bool({"callbacks", "configurable", "metadata", "tags"} & value.keys())
    )


# Embeddings


def _embedding_method(cls: type, name: str, method: Method) -> Method:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def governed_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            guard = _embedding_guard(self, args, kwargs)
            if guard is None:
                return await method(self, *args, **kwargs)
            await guard.call.begin_async()
            token = covering.set(guard.covered)
            try:
                vectors = await method(self, *args, **kwargs)
            except BaseException as error:
                await guard.call.failed_async(error)
                raise
            finally:
                covering.reset(token)
            guard.call.ended()
            await guard.call.examine_async({"vectors": len(vectors)})
            return vectors

        return governed_async

    @functools.wraps(method)
    def governed(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard = _embedding_guard(self, args, kwargs)
        if guard is None:
            return method(self, *args, **kwargs)
        guard.call.begin()
        token = covering.set(guard.covered)
        try:
            vectors = method(self, *args, **kwargs)
        except BaseException as error:
            guard.call.failed(error)
            raise
        finally:
            covering.reset(token)
        guard.call.ended()
        guard.call.examine({"vectors": len(vectors)})
        return vectors

    return governed


def _embedding_guard(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Guard | None:
    texts = args[0] if args else kwargs.get("texts", kwargs.get("text"))
    return Guard.of(model, (texts,), {})
