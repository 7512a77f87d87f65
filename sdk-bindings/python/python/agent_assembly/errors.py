"""What a governed program can meet: every error names what was refused, why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal

__all__ = [
    "ActionRefused",
    "AgentAssemblyError",
    "ApprovalRequired",
    "BudgetExceededError",
    "BudgetStanding",
    "ConfigurationError",
    "GatewayOverloaded",
    "GatewayUnreachable",
    "GovernedAction",
    "InstrumentationError",
    "PolicyDenied",
    "Reason",
]


_NANOS = Decimal(10) ** 9
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """Where a budget stood when it refused an action.

    Attributes:
        window: ``hourly``, ``daily``, ``weekly`` or ``monthly``.
        limit: The most that may be spent, in US dollars; None when money is not limited.
        spent: What calls did cost, in US dollars.
        reserved: What is set aside for calls under way, in US dollars.
        limit_tokens: The most tokens; None when they are not limited.
        spent_tokens: Tokens used.
        reserved_tokens: Tokens set aside for calls under way.
        resets_at: When the budget starts anew, in UTC.
    """

    window: str
    limit: Decimal | None
    spent: Decimal
    reserved: Decimal
    limit_tokens: int | None
    spent_tokens: int
    reserved_tokens: int
    resets_at: datetime

    @classmethod
    def of(
        cls, figures: tuple[str, int | None, int, int, int | None, int, int, int]
    ) -> BudgetStanding:
        """The standing behind the native figures: nano-US-dollars and microseconds since 1970."""
        window, limit, spent, reserved, limit_tokens, spent_tokens, reserved_tokens, resets = figures
        return cls(
            window,
            None if limit is None else limit / _NANOS,
            spent / _NANOS,
            reserved / _NANOS,
            limit_tokens,
            spent_tokens,
            reserved_tokens,
            _EPOCH + timedelta(microseconds=resets),
        )


@dataclass(frozen=True, slots=True)
class Reason:
    """One policy's part in a decision.

    Attributes:
        code: A stable name such as ``tool_denied``.
        policy: The policy's name; None for reasons that no policy gives.
        revision: The revision the workspace gave the policy.
        version: The author's own version of the policy.
        path: The field that decided, such as ``spec.tools.bash.allow``.
        line: 1-based line of that field in the uploaded source.
        column: 1-based column of that field.
        message: A sentence for people.
        budget: Where the budget stood, when a budget is the reason.
    """

    code: str
    policy: str | None
    revision: int | None
    version: str | None
    path: str | None
    line: int | None
    column: int | None
    message: str
    budget: BudgetStanding | None = None

    def __str__(self) -> str:
        if self.policy is None:
            return f"{self.message} [{self.code}]"
        place = f"policy `{self.policy}`"
        if self.revision is not None:
            place += f" (revision {self.revision})"
        if self.line is not None:
            place += f", line {self.line}"
        if self.path is not None:
            place += f", {self.path}"
        return f"{place}: {self.message} [{self.code}]"


@dataclass(frozen=True, slots=True)
class GovernedAction:
    """The action a decision was about, without its payload, which may hold secrets.

    Attributes:
        kind: ``tool_call``, ``tool_result``, ``llm_call``, ``llm_result``, ``network_connect`` or
            ``agent_spawn``.
        name: The tool, model, host or agent.
        host: The provider's host of a model call, when it is known.
    """

    kind: str
    name: str
    host: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} `{self.name}`" + (f" at {self.host}" if self.host else "")


class AgentAssemblyError(Exception):
    """The base of all errors of this package. Whatever was asked for did not happen.

    Attributes:
        action: What was asked for, when the error is about an action.
        reasons: Why, in the order of the checks; empty without a decision.
        event_id: The audit entry (``evt_…``); None without a decision.
    """

    def __init__(
        self,
        message: str,
        *,
        action: GovernedAction | None = None,
        reasons: Sequence[Reason] = (),
        event_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.action = action
        self.reasons: tuple[Reason, ...] = tuple(reasons)
        self.event_id = event_id


class ConfigurationError(AgentAssemblyError, ValueError):
    """A setting is missing or malformed; the message names it and what to write."""


class InstrumentationError(AgentAssemblyError):
    """A library cannot be governed as it stands, so it is not used inside an agent."""


class GatewayUnreachable(AgentAssemblyError):
    """No gateway decided in time, so the action was not made."""


class GatewayOverloaded(GatewayUnreachable):
    """The gateway takes no more work right now; try again later."""


class ActionRefused(AgentAssemblyError):
    """The gateway could not take the action as it is: malformed, too large, or not this agent's."""


class PolicyDenied(AgentAssemblyError):
    """A policy does not let the action happen."""


class ApprovalRequired(PolicyDenied):
    """A person must approve the action first, and the program does not wait for that (any longer).

    Attributes:
        approval_id: The request that a person can answer: `aasm approval show`.
        timeout_seconds: How long a request stands before it expires as denied.
        roles: Who must approve; empty for the team's default.
    """

    def __init__(
        self,
        message: str,
        *,
        action: GovernedAction | None = None,
        reasons: Sequence[Reason] = (),
        event_id: str | None = None,
        timeout_seconds: int | None = None,
        roles: Sequence[str] = (),
        approval_id: str | None = None,
    ) -> None:
        super().__init__(message, action=action, reasons=reasons, event_id=event_id)
        self.approval_id = approval_id
        self.timeout_seconds = timeout_seconds
        self.roles: tuple[str, ...] = tuple(roles)


class BudgetExceededError(PolicyDenied):
    """The action would pass a budget, or a budget suspended the agent until its window resets.

    Attributes:
        budgets: Where each of the budgets stood that refused it.
    """

    @property
    def budgets(self) -> tuple[BudgetStanding, ...]:
        """Where each of the budgets stood that refused the action."""
        return tuple(reason.budget for reason in self.reasons if reason.budget is not None)

    @property
    def limit(self) -> Decimal | None:
        """The limit of the first of them, in US dollars; None when it limits tokens only."""
        return self.budgets[0].limit if self.budgets else None

    @property
    def spent(self) -> Decimal | None:
        """What was spent of it, in US dollars."""
        return self.budgets[0].spent if self.budgets else None

    @property
    def reserved(self) -> Decimal | None:
        """What is set aside in it for calls under way, in US dollars."""
        return self.budgets[0].reserved if self.budgets else None

    @property
    def resets_at(self) -> datetime | None:
        """When the last of them starts anew, in UTC: no earlier can the action pass."""
        return max((budget.resets_at for budget in self.budgets), default=None)


BUDGET_CODES = frozenset({"budget_exceeded", "budget_suspended"})

_ADVICE = {
    "no_applicable_policy": "apply a policy whose scope covers this agent, such as the starter policy",
    "agent_suspended": "an operator can resume the agent: aasm agent resume",
    "outside_active_hours": "run the agent within the policy's active hours",
    "capability_denied": "do without it, or have the capability taken out of the policy's deny list",
    "capability_not_allowed": "have the capability added to the policy's allow list",
    "host_not_allowed": "have the host added to the policy's network allowlist",
    "tool_denied": "use another tool, or have the policy allow this one",
    "sensitive_data": "keep the secret out of what the agent sends and receives",
    "rate_limited": "call the tool less often, or have its hourly limit raised",
    "approval_required": "ask for its approval: aasm approval list",
    "approval_condition_error": "give the call the arguments the policy's condition reads",
    "approval_expired": "ask again while an approver is at hand",
    "approval_denied": "ask the approver why",
    "budget_exceeded": "wait for the budget's window to reset, or have the budget raised",
    "budget_suspended": "wait for the budget's window to reset, or have the budget raised",
    "sequence_denied": "begin a new run: what this one has read rules the call out",
    "sequence_requires_approval": "ask for its approval: aasm approval list",
    "price_unknown": "have an operator set the model's price: aasm price set",
}


def explain(
    verdict: str, action: GovernedAction, reasons: Sequence[Reason], event_id: str | None
) -> str:
    """Composes what people read when an action is not allowed."""
    what = "needs approval" if verdict == "require_approval" else "was denied"
    lines = [f"{action} {what}"]
    lines += [f"  because {reason}" for reason in reasons]
    advice = {_ADVICE[reason.code]: None for reason in reasons if reason.code in _ADVICE}
    lines += [f"  to go on: {sentence}" for sentence in advice]
    if event_id is not None:
        lines.append(f"  audit event: {event_id}")
    return "\n".join(lines)
