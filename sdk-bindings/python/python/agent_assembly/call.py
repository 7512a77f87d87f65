"""One governed call: asked about before it is made, reported when it ended, its result looked at before
the agent sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from ._native import Action, Checked
from .errors import AgentAssemblyError, GovernedAction
from .payload import to_json
from .run import AgentRun

__all__ = ["CallInProgress", "ModelCall", "ToolCall", "Usage", "in_progress", "usage_of"]

T = TypeVar("T")

#: Tokens as the provider counted them: of the whole prompt, of the whole answer, and of these those read from a
#: cache, those written to one, and those of reasoning.
Usage = tuple[int, int, int, int, int]


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

    __slots__ = ("_about", "_action", "_checked", "_run", "_settled", "_started", "host", "model")

    def __init__(
        self,
        run: AgentRun,
        model: str,
        host: str | None,
        messages: object,
        max_output_tokens: int | None = None,
        choices: int | None = None,
    ) -> None:
        self.model = model
        self.host = host
        self._run = run
        self._action = Action.llm_call(
            model, host or "", to_json(messages), max_output_tokens, choices
        )
        self._about = GovernedAction("llm_call", model, host)
        self._checked: Checked | None = None
        self._settled = False
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

    def examine(self, content: object, usage: Usage | None = None) -> None:
        """Asks whether the agent may see the result, and settles what the call was reserved."""
        self._run.check(*self._result(content, usage))

    async def examine_async(self, content: object, usage: Usage | None = None) -> None:
        """`examine` without holding up the event loop."""
        await self._run.check_async(*self._result(content, usage))

    def failed(self, error: BaseException) -> None:
        """Reports a call that failed, looks at what its error would tell the agent, and settles it."""
        self.ended(error)
        if _speaks_to_the_agent(error):
            with _withholding():
                self._run.check(*self._result(error, None, _was_taken_on(error)))
        else:
            self._abandon()

    async def failed_async(self, error: BaseException) -> None:
        """`failed` without holding up the event loop."""
        self.ended(error)
        if _speaks_to_the_agent(error):
            with _withholding():
                await self._run.check_async(*self._result(error, None, _was_taken_on(error)))
        else:
            self._abandon()

    def _abandon(self) -> None:
        """Settles a call whose result nobody waits for any more: the provider may charge all of it."""
        if self._checked is not None and self._checked.event_id is not None and not self._settled:
            self._run.tell(Action.llm_result(self.model, "null", None, self._checked))

    def _result(
        self, content: object, usage: Usage | None, taken_on: bool = True
    ) -> tuple[Action, GovernedAction]:
        self._settled = True
        action = Action.llm_result(self.model, to_json(content), usage, self._checked, taken_on)
        return action, GovernedAction("llm_result", self.model)


def _was_taken_on(error: BaseException) -> bool:
    """Whether a call that failed may be charged: not when the provider answered with an error instead."""
    return not isinstance(getattr(error, "status_code", None), int)


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


def usage_of(usage: object) -> Usage | None:
    """The tokens a provider reports, under the names that OpenAI's APIs, their imitators and LangChain give them."""
    if not isinstance(usage, Mapping):
        return None
    prompt = _count(usage, "input_tokens", "prompt_tokens")
    answer = _count(usage, "output_tokens", "completion_tokens")
    if prompt is None and answer is None:
        return None
    read = _part(usage, ("input_tokens_details", "prompt_tokens_details"), "cached_tokens")
    read = read or _part(usage, ("input_token_details",), "cache_read")
    written = _part(usage, ("input_token_details",), "cache_creation")
    thought = _part(
        usage, ("output_tokens_details", "completion_tokens_details"), "reasoning_tokens"
    )
    thought = thought or _part(usage, ("output_token_details",), "reasoning")
    return prompt or 0, answer or 0, read, written, thought


def _count(counts: Mapping[object, object], *names: str) -> int | None:
    found = (counts.get(name) for name in names)
    return next((count for count in found if isinstance(count, int) and count >= 0), None)


def _part(usage: Mapping[object, object], groups: tuple[str, ...], name: str) -> int:
    for group in groups:
        parts = usage.get(group)
        if isinstance(parts, Mapping):
            return _count(parts, name) or 0
    return 0
