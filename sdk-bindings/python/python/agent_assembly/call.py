"""One governed call: asked about before it is made, reported when it ended, its result looked at before
the agent sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from ._native import Action, Checked
from .errors import AgentAssemblyError, GovernedAction
from .payload import to_json
from .run import AgentRun

__all__ = ["CallInProgress", "ToolCall", "in_progress"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallInProgress:
    """A tool call that is being made, so that the function inside it is not asked about again."""

    tool: str
    args_json: str


#: The innermost tool call that is being made.
in_progress: ContextVar[CallInProgress | None] = ContextVar("agent_assembly_tool", default=None)


class ToolCall:
    """A call of a tool."""

    __slots__ = ("_about", "_action", "_args_json", "_run", "_tool")

    def __init__(self, run: AgentRun, tool: str, args: object) -> None:
        self._run = run
        self._tool = tool
        self._args_json = to_json(args)
        self._action = Action.tool_call(tool, self._args_json)
        self._about = GovernedAction("tool_call", tool)

    def is_in_progress(self) -> bool:
        """Whether this very call was asked about a level further out."""
        return in_progress.get() == CallInProgress(self._tool, self._args_json)

    def make(self, function: Callable[[], T]) -> T:
        """Asks, calls, and returns the result once that was looked at too."""
        checked = self._run.check(self._action, self._about)
        started = time.perf_counter()
        token = in_progress.set(CallInProgress(self._tool, self._args_json))
        try:
            result = function()
        except BaseException as error:
            self._ended(checked, error, started)
            if _speaks_to_the_agent(error):
                with _withholding():
                    self._run.check(*self._result(error))
            raise
        finally:
            in_progress.reset(token)
        self._ended(checked, None, started)
        self._run.check(*self._result(result))
        return result

    async def make_async(self, function: Callable[[], Awaitable[T]]) -> T:
        """`make` for a coroutine function."""
        checked = await self._run.check_async(self._action, self._about)
        started = time.perf_counter()
        token = in_progress.set(CallInProgress(self._tool, self._args_json))
        try:
            result = await function()
        except BaseException as error:
            self._ended(checked, error, started)
            if _speaks_to_the_agent(error):
                with _withholding():
                    await self._run.check_async(*self._result(error))
            raise
        finally:
            in_progress.reset(token)
        self._ended(checked, None, started)
        await self._run.check_async(*self._result(result))
        return result

    def _ended(self, checked: Checked, error: BaseException | None, started: float) -> None:
        self._run.record(self._action, checked, outcome_of(error), time.perf_counter() - started)

    def _result(self, content: object) -> tuple[Action, GovernedAction]:
        action = Action.tool_result(self._tool, to_json(content))
        return action, GovernedAction("tool_result", self._tool)


class ModelCall:
    """A call of a model."""

    __slots__ = ("_about", "_action", "_checked", "_run", "_started", "host", "model")

    def __init__(
        self,
        run: AgentRun,
        model: str,
        host: str | None,
        messages: object,
        max_output_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.host = host
        self._run = run
        self._action = Action.llm_call(model, host or "", to_json(messages), max_output_tokens)
        self._about = GovernedAction("llm_call", model, host)
        self._checked: Checked | None = None
        self._started = 0.0

    def begin(self) -> None:
        """Asks whether the call may be made."""
        self._checked = self._run.check(self._action, self._about)
        self._started = time.perf_counter()

    async def begin_async(self) -> None:
        """`begin` without holding up the event loop."""
        self._checked = await self._run.check_async(self._action, self._about)
        self._started = time.perf_counter()

    def ended(self, error: BaseException | None = None) -> None:
        """Reports how the call ended."""
        if self._checked is not None:
            seconds = time.perf_counter() - self._started
            self._run.record(self._action, self._checked, outcome_of(error), seconds)

    def examine(self, content: object, usage: tuple[int, int] | None = None) -> None:
        """Asks whether the agent may see the result."""
        self._run.check(*self._result(content, usage))

    async def examine_async(self, content: object, usage: tuple[int, int] | None = None) -> None:
        """`examine` without holding up the event loop."""
        await self._run.check_async(*self._result(content, usage))

    def failed(self, error: BaseException) -> None:
        """Reports a call that failed, and looks at what its error would tell the agent."""
        self.ended(error)
        if _speaks_to_the_agent(error):
            with _withholding():
                self.examine(error)

    async def failed_async(self, error: BaseException) -> None:
        """`failed` without holding up the event loop."""
        self.ended(error)
        if _speaks_to_the_agent(error):
            with _withholding():
                await self.examine_async(error)

    def _result(
        self, content: object, usage: tuple[int, int] | None
    ) -> tuple[Action, GovernedAction]:
        action = Action.llm_result(self.model, to_json(content), usage)
        return action, GovernedAction("llm_result", self.model)


def outcome_of(error: BaseException | None) -> str:
    """How a call ended, in the words of the audit log."""
    if error is None:
        return "ok"
    cancelled = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)
    return "cancelled" if isinstance(error, cancelled) else "error"


@contextmanager
def _withholding() -> Iterator[None]:
    """Keeps an error that is withheld from showing as the context of the one that withholds it."""
    try:
        yield
    except AgentAssemblyError as withholding:
        withholding.__context__ = None
        raise


def _speaks_to_the_agent(error: BaseException) -> bool:
    """Whether an error carries text of the tool or model; frameworks show that to the agent."""
    return isinstance(error, Exception) and not isinstance(error, AgentAssemblyError)
