"""Agent Assembly: every tool and model call of an agent is decided by policy before it is made.

    from agent_assembly import AgentAssembly

    aaa = AgentAssembly()

    @aaa.agent(name="research")
    def run(question: str) -> str: ...

Inside `run`, LangChain and the OpenAI client are governed as they are; `@aaa.tool` governs plain
functions. What a policy does not allow raises `PolicyDenied` and does not happen.
"""

from .assembly import AgentAssembly
from .errors import (
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
)
from .run import AgentRun, current_run

__all__ = [
    "ActionRefused",
    "AgentAssembly",
    "AgentAssemblyError",
    "AgentRun",
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
    "current_run",
]
