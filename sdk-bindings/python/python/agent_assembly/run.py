"""A registered agent, and one run of it: what governed calls ask."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import log
from ._native import Action, Agent, Checked, Failure
from .context import active_run
from .errors import (
    BUDGET_CODES,
    ActionRefused,
    AgentAssemblyError,
    ApprovalRequired,
    BudgetExceededError,
    BudgetStanding,
    ConfigurationError,
    GatewayOverloaded,
    GatewayUnreachable,
    GovernedAction,
    InstrumentationError,
    PolicyDenied,
    Reason,
    explain,
)

if TYPE_CHECKING:
    from .assembly import AgentAssembly

__all__ = ["AgentRun", "AgentSpec", "RegisteredAgent", "current_run", "unusable_libraries"]

#: Libraries whose shape is not known, and why. Agents do not run while one is loaded.
unusable_libraries: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent tells about itself when it registers."""

    name: str
    id: str | None = None
    org: str = ""
    team: str = ""
    governance_level: str = "L0"
    labels: Mapping[str, str] = field(default_factory=dict)


class RegisteredAgent:
    """An agent of this process. It registers when it first runs, and again in a forked child."""

    def __init__(self, assembly: AgentAssembly, spec: AgentSpec) -> None:
        self.spec = spec
        self._assembly = assembly
        self._native: Agent | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.spec.name

    @property
    def waits_for_approval(self) -> float:
        """How many seconds its calls wait for a person; 0 when they do not."""
        return self._assembly.waits_for_approval

    @property
    def workspace_id(self) -> str:
        """The workspace it belongs to."""
        return self._assembly.workspace_id

    def native(self) -> Agent:
        """The registration, made now if there is none.

        Raises:
            GatewayUnreachable: No gateway answered.
            ActionRefused: The gateway did not take the registration.
        """
        native = self._native
        return native if native is not None else self._register()

    async def native_async(self) -> Agent:
        """`native` without holding up the event loop."""
        native = self._native
        if native is not None:
            return native
        return await asyncio.to_thread(self._register)

    @property
    def registered(self) -> Agent | None:
        """The registration, if it was made."""
        return self._native

    def forget(self) -> Agent | None:
        """Drops what a fork left behind without touching it; returns it to be kept from destruction."""
        native, self._native = self._native, None
        self._lock = threading.Lock()
        return native

    def _register(self) -> Agent:
        with self._lock:
            if self._native is not None:
                return self._native
            spec = self.spec
            try:
                registered = self._assembly.client().register(
                    spec.name, spec.id, spec.org, spec.team, spec.governance_level, dict(spec.labels)
                )
            except ValueError as error:
                raise ConfigurationError(f"agent `{spec.name}`: {error}") from None
            if isinstance(registered, Failure):
                about = f"agent `{spec.name}` could not be registered: "
                raise failed(registered, None, about)
            self._native = registered
        if registered.connected:
            log.registered(spec.name, self.workspace_id)
        else:
            log.logger.warning(
                "[AAASM] Agent not registered yet: %s goes on ungoverned by its owner's choice",
                spec.name,
            )
        return registered


class AgentRun:
    """One run of an agent. All checks of a run share a trace id."""

    __slots__ = ("_native", "agent", "purpose", "trace_id")

    def __init__(self, agent: RegisteredAgent, native: Agent, purpose: str | None = None) -> None:
        self.agent = agent
        self.trace_id = _current_trace() or os.urandom(16)
        self.purpose = purpose
        self._native = native

    def for_purpose(self, purpose: str) -> AgentRun:
        """The same run, whose calls are put before people with these words."""
        run = AgentRun(self.agent, self._native, purpose)
        run.trace_id = self.trace_id
        return run

    def check(self, action: Action, about: GovernedAction) -> Checked:
        """Asks for a decision; returns only when the action may happen.

        Raises:
            PolicyDenied: It may not; see also `ApprovalRequired` and `BudgetExceededError`.
            GatewayUnreachable: There is no decision.
            ActionRefused: The gateway could not take the action.
        """
        _refuse_unusable_libraries(about)
        started = time.perf_counter()
        answer = self.native().check(action, self.trace_id, None, self.purpose)
        awaited = self._awaited(answer, about)
        if awaited is not None:
            answer = self.native().check(action, self.trace_id, awaited, self.purpose)
        return self._judge(answer, about, started)

    async def check_async(self, action: Action, about: GovernedAction) -> Checked:
        """`check` without holding up the event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # Another kind of loop: correct, if not concurrent.
            return self.check(action, about)
        _refuse_unusable_libraries(about)
        started = time.perf_counter()
        answer = await self._ask(loop, action, None)
        awaited = self._awaited(answer, about)
        if awaited is not None:
            answer = await self._ask(loop, action, awaited)
        return self._judge(answer, about, started)

    async def _ask(
        self, loop: asyncio.AbstractEventLoop, action: Action, awaited: tuple[bytes, float] | None
    ) -> Checked | Failure:
        future: asyncio.Future[Checked | Failure] = loop.create_future()

        def answered(answer: Checked | Failure) -> None:
            # The loop may be closed by now, with nobody left to answer.
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future, answer)

        self.native().check_then(action, answered, self.trace_id, awaited, self.purpose)
        return await future

    def _awaited(
        self, answer: Checked | Failure, about: GovernedAction
    ) -> tuple[bytes, float] | None:
        """The request for approval to wait for, and for how long; None when there is nothing to wait for."""
        if isinstance(answer, Failure) or answer.verdict != "require_approval":
            return None
        seconds = self.agent.waits_for_approval
        if not seconds or answer.approval_id is None:
            return None
        log.awaiting(about.kind, self.agent.name, str(uuid.UUID(bytes=answer.approval_id)))
        return answer.approval_id, seconds

    def tell(self, action: Action) -> None:
        """Sends an action whose decision nobody waits for."""
        self.native().check_then(action, _ignore, self.trace_id)

    def record(self, action: Action, checked: Checked, outcome: str, seconds: float) -> None:
        """Reports how an allowed action ended, in the background."""
        failure = self.native().record_outcome(action, checked, outcome, seconds, self.trace_id)
        if failure is not None:
            log.logger.warning("[AAASM] Outcome not recorded: %s", failure.message)

    def native(self) -> Agent:
        """The registration; a new one in a forked child."""
        if self.agent.registered is not self._native:
            self._native = self.agent.native()
        return self._native

    @contextmanager
    def active(self) -> Iterator[AgentRun]:
        """Makes this the run that the enclosed code belongs to."""
        token = active_run.set(self)
        try:
            yield self
        finally:
            active_run.reset(token)

    def _judge(self, answer: Checked | Failure, about: GovernedAction, started: float) -> Checked:
        if isinstance(answer, Failure):
            raise failed(answer, about, f"{about} was not decided: ")
        verdict = answer.verdict
        event_id = answer.event_id
        log.decided(verdict, about.kind, self.agent.name, event_id, time.perf_counter() - started)
        if answer.allowed:
            return answer
        raise _not_allowed(answer, verdict, about, event_id)


def current_run() -> AgentRun | None:
    """The run the calling code belongs to; None outside every agent."""
    run = active_run.get()
    return run if run is not None else _default_run()


_default: Callable[[], AgentRun] | None = None


def set_default_run(provider: Callable[[], AgentRun] | None) -> None:
    """Sets what code outside every agent belongs to."""
    global _default
    _default = provider


def _default_run() -> AgentRun | None:
    return None if _default is None else _default()


def failed(failure: Failure, about: GovernedAction | None, prefix: str = "") -> AgentAssemblyError:
    """The error of a check that brought no decision."""
    errors: dict[str, type[AgentAssemblyError]] = {
        "unreachable": GatewayUnreachable,
        "backlog_full": GatewayUnreachable,
        "interrupted": GatewayUnreachable,
        "overloaded": GatewayOverloaded,
        "config": ConfigurationError,
    }
    error = errors.get(failure.kind, ActionRefused)
    return error(prefix + failure.message, action=about)


def _not_allowed(
    answer: Checked, verdict: str, about: GovernedAction, event_id: str | None
) -> PolicyDenied:
    reasons = [
        Reason(*reason, budget=None if budget is None else BudgetStanding.of(budget))
        for *reason, budget in answer.reasons
    ]
    message = explain(verdict, about, reasons, event_id)
    if verdict == "require_approval":
        timeout, roles = answer.approval or (None, [])
        return ApprovalRequired(
            message,
            action=about,
            reasons=reasons,
            event_id=event_id,
            timeout_seconds=timeout,
            roles=roles,
            approval_id=None if answer.approval_id is None else str(uuid.UUID(bytes=answer.approval_id)),
        )
    budget = bool(reasons) and all(reason.code in BUDGET_CODES for reason in reasons)
    error = BudgetExceededError if budget else PolicyDenied
    return error(message, action=about, reasons=reasons, event_id=event_id)


def _refuse_unusable_libraries(about: GovernedAction) -> None:
    if unusable_libraries:
        problems = "; ".join(f"{name}: {why}" for name, why in unusable_libraries.items())
        raise InstrumentationError(f"{about} was not made: {problems}", action=about)


def _ignore(_: Checked | Failure) -> None:
    pass


def _resolve(future: asyncio.Future[Checked | Failure], answer: Checked | Failure) -> None:
    if not future.done():
        future.set_result(answer)


def _current_trace() -> bytes | None:
    """The trace an OpenTelemetry span of the program is in, if it uses OpenTelemetry."""
    telemetry = sys.modules.get("opentelemetry.trace")
    if telemetry is None:
        return None
    try:
        context = telemetry.get_current_span().get_span_context()
        return context.trace_id.to_bytes(16, "big") if context.is_valid else None
    except Exception:
        return None
