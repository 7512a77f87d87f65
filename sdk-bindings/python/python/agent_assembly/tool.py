"""Plain functions as governed tools."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar, cast

from .call import ToolCall
from .run import current_run

__all__ = ["governed"]

F = TypeVar("F", bound=Callable[..., Any])


def governed(function: F, name: str | None = None) -> F:
    """See `AgentAssembly.tool`. Generators are run to their end before anything is handed on, so that
    nothing unseen reaches the agent."""
    tool = name or function.__name__
    signature = inspect.signature(function)

    def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolCall | None:
        run = current_run()
        if run is None:
            return None
        tool_call = ToolCall(run, tool, _arguments(signature, args, kwargs))
        return None if tool_call.is_in_progress() else tool_call

    @functools.wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        tool_call = call(args, kwargs)
        if tool_call is None:
            return function(*args, **kwargs)
        return tool_call.make(lambda: function(*args, **kwargs))

    @functools.wraps(function)
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        tool_call = call(args, kwargs)
        if tool_call is None:
            return await function(*args, **kwargs)
        return await tool_call.make_async(lambda: function(*args, **kwargs))

    @functools.wraps(function)
    def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
        tool_call = call(args, kwargs)
        if tool_call is None:
            yield from function(*args, **kwargs)
        else:
            yield from tool_call.make(lambda: list(function(*args, **kwargs)))

    @functools.wraps(function)
    async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async def collected() -> list[Any]:
            return [item async for item in function(*args, **kwargs)]

        tool_call = call(args, kwargs)
        items = await (collected() if tool_call is None else tool_call.make_async(collected))
        for item in items:
            yield item

    if inspect.isasyncgenfunction(function):
        return cast(F, async_generator)
    if inspect.isgeneratorfunction(function):
        return cast(F, generator)
    if inspect.iscoroutinefunction(function):
        return cast(F, asynchronous)
    return cast(F, synchronous)


def _arguments(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, defaults included, the object a method is bound to left out."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        # The call itself will say what is wrong with them.
        return {"args": list(args), **kwargs}
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for position, (name, value) in enumerate(bound.arguments.items()):
        if position == 0 and name in ("self", "cls"):
            continue
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return named
