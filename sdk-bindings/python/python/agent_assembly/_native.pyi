"""The native client core. Private: use `agent_assembly.AgentAssembly`."""

from collections.abc import Callable, Mapping
from typing import Any, final

@final
class Action:
    """One action, ready to be sent. Payloads are JSON texts."""

    @staticmethod
    def tool_call(tool: str, args_json: str) -> Action: ...
    @staticmethod
    def tool_result(tool: str, content_json: str) -> Action: ...
    @staticmethod
    def llm_call(
        model: str,
        host: str,
        messages_json: str,
        max_output_tokens: int | None = None,
        choices: int | None = None,
    ) -> Action: ...
    @staticmethod
    def llm_result(
        model: str,
        content_json: str,
        usage: tuple[int, int, int, int, int] | None = None,
        call: Checked | None = None,
        charged: bool = True,
    ) -> Action: ...
    @staticmethod
    def network_connect(host: str, port: int) -> Action: ...
    @staticmethod
    def agent_spawn(child: str) -> Action: ...

@final
class Checked:
    """A decision."""

    verdict: str
    allowed: bool
    event_id: str | None
    latency_us: int
    governed: bool
    approval_id: bytes | None
    approval: tuple[int, list[str]] | None
    reasons: list[
        tuple[
            str,
            str | None,
            int | None,
            str | None,
            str | None,
            int | None,
            int | None,
            str,
            tuple[str, int | None, int, int, int | None, int, int, int] | None,
        ]
    ]

@final
class Failure:
    """There is no decision."""

    kind: str
    message: str

@final
class Client:
    """The gateways of a workspace, of which one is used at a time; `gateway_url` names all, separated by commas.

    Raises ValueError for a setting that is missing or malformed.
    """

    def __new__(
        cls,
        settings: Mapping[str, str],
        request_timeout: float | None = None,
        connect_timeout: float | None = None,
    ) -> Client: ...
    workspace_id: str
    gateway_url: str
    lets_through_unreachable: bool
    def register(
        self,
        name: str,
        id: str | None = None,
        org: str = "",
        team: str = "",
        governance_level: str = "L0",
        labels: Mapping[str, str] = ...,
    ) -> Agent | Failure: ...

@final
class Agent:
    """A registered agent."""

    name: str
    id: str
    suspended: bool
    connected: bool
    def check(
        self,
        action: Action,
        trace_id: bytes | None = None,
        approval: tuple[bytes, float] | None = None,
        context: str | None = None,
    ) -> Checked | Failure: ...
    def check_then(
        self,
        action: Action,
        callback: Callable[[Checked | Failure], Any],
        trace_id: bytes | None = None,
        approval: tuple[bytes, float] | None = None,
        context: str | None = None,
    ) -> None: ...
    def record_outcome(
        self,
        action: Action,
        checked: Checked,
        outcome: str,
        duration: float,
        trace_id: bytes | None = None,
    ) -> Failure | None: ...
    def flush(self, patience: float) -> bool: ...
