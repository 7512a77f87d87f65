"""Plain functions as governed tools."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Gateway, Ledger

from agent_assembly import ActionRefused, AgentAssembly, ApprovalRequired, PolicyDenied

SECRET = "AKIA" + "ABCDEFGHIJKLMNOP"


def test_a_tool_is_asked_about_before_it_runs_and_its_result_before_it_is_seen(
    aaa: AgentAssembly, ledger: Ledger
) -> None:
    @aaa.tool
    def search(query: str, limit: int = 3) -> list[str]:
        return [query] * limit

    assert search("ungoverned") == ["ungoverned"] * 3
    with aaa.run(ledger.agent):
        assert search("x", limit=1) == ["x"]
    assert ledger.decisions() == [("tool_call", "allow"), ("tool_result", "allow")]
    assert ledger.outcomes() == [("tool_call", "ok")]


def test_a_denied_tool_does_not_run_and_the_error_says_why(aaa: AgentAssembly, ledger: Ledger) -> None:
    ran: list[str] = []

    @aaa.tool(name="bash")
    def shell(command: str) -> None:
        ran.append(command)

    with aaa.run(ledger.agent), pytest.raises(PolicyDenied) as denied:
        shell("rm -rf /")
    assert ran == []
    error = denied.value
    reason = error.reasons[0]
    assert (reason.code, reason.policy, reason.path) == ("tool_denied", "python-tests", "spec.tools.bash.allow")
    assert reason.line is not None and reason.line > 1
    assert error.event_id is not None and error.event_id.startswith("evt_")
    assert error.action is not None and (error.action.kind, error.action.name) == ("tool_call", "bash")
    text = str(error)
    assert "tool_call `bash` was denied" in text
    assert f"policy `python-tests` (revision 1), line {reason.line}, spec.tools.bash.allow" in text
    assert "to go on:" in text and error.event_id in text
    assert ledger.decisions() == [("tool_call", "deny")]


def test_a_secret_in_arguments_or_results_is_stopped_and_not_repeated(aaa: AgentAssembly, ledger: Ledger) -> None:
    ran: list[str] = []

    @aaa.tool
    def read(path: str) -> dict[str, object]:
        ran.append(path)
        return {"lines": [{"text": f"key = {SECRET}"}]}

    with aaa.run(ledger.agent):
        with pytest.raises(PolicyDenied) as denied:
            read(SECRET)
        assert SECRET not in str(denied.value)
        assert ran == []
        with pytest.raises(PolicyDenied) as denied:
            read("config.ini")
        assert SECRET not in str(denied.value)
        assert ran == ["config.ini"]
        assert denied.value.action is not None and denied.value.action.kind == "tool_result"
    assert ledger.decisions() == [("tool_call", "deny"), ("tool_call", "allow"), ("tool_result", "deny")]


def test_a_call_that_needs_approval_says_whose(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def transfer(amount: int) -> int:
        return amount

    with aaa.run(ledger.agent):
        assert transfer(5) == 5
        with pytest.raises(ApprovalRequired) as needed:
            transfer(amount=500)
    assert needed.value.roles == ("finance",)
    assert needed.value.timeout_seconds == 300
    assert "needs approval" in str(needed.value)


def test_what_an_error_tells_is_looked_at_too(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def connect(secret: bool) -> None:
        raise ConnectionError(f"login failed for {SECRET if secret else 'someone'}")

    with aaa.run(ledger.agent):
        with pytest.raises(ConnectionError):
            connect(False)
        with pytest.raises(PolicyDenied) as denied:
            connect(True)
    assert SECRET not in "".join(traceback.format_exception(denied.value))
    assert ledger.outcomes() == [("tool_call", "error")] * 2


async def test_coroutines_are_tools_and_many_are_asked_about_at_once(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        return number

    with aaa.run(ledger.agent):
        assert await asyncio.gather(*(work(number) for number in range(100))) == list(range(100))
    assert len(ledger.decisions()) == 200


async def test_a_cancelled_tool_is_recorded_as_such(aaa: AgentAssembly, ledger: Ledger) -> None:
    begun = asyncio.Event()

    @aaa.tool
    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    with aaa.run(ledger.agent):
        task = asyncio.create_task(wait())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ledger.outcomes() == [("tool_call", "cancelled")]


async def test_generators_hand_on_nothing_unseen(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def lines() -> Iterator[str]:
        yield "first"
        yield SECRET

    @aaa.tool
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    with aaa.run(ledger.agent):
        with pytest.raises(PolicyDenied):
            next(iter(lines()))
        assert [number async for number in numbers()] == [1, 2]


def test_methods_and_odd_values_are_tools_too(aaa: AgentAssembly, ledger: Ledger) -> None:
    class Odd:
        def __init__(self) -> None:
            self.inner = SECRET

    class Toolbox:
        @aaa.tool
        def take(self, thing: object) -> float:
            return float("nan")

    with aaa.run(ledger.agent):
        assert str(Toolbox().take({1: "one", "1": "other", (2, 3): b"\xff\xfe", "s": "\ud800"})) == "nan"
        with pytest.raises(PolicyDenied):
            Toolbox().take(Odd())


def test_an_argument_too_large_to_check_is_refused(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def take(text: str) -> int:
        return len(text)

    with aaa.run(ledger.agent):
        with pytest.raises(ActionRefused, match="at most"):
            take("x" * (5 << 20))
        assert take("x") == 1


def test_many_threads_are_governed_at_once(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def work(number: int) -> int:
        return number

    with aaa.run(ledger.agent), ThreadPoolExecutor(16) as threads:
        assert list(threads.map(work, range(200))) == list(range(200))
    assert len(ledger.decisions()) == 400


def test_a_tool_outside_every_agent_can_be_given_one(gateway: Gateway, aaa: AgentAssembly, ledger: Ledger) -> None:
    from agent_assembly import run

    client = gateway.client
    default = AgentAssembly(
        workspace_id=client["AAA_WORKSPACE_ID"],
        api_key=client["AAA_API_KEY"],
        gateway_url=client["AAA_GATEWAY_URL"],
        ca_file=client.get("AAA_CA_FILE"),
        default_agent=ledger.agent,
    )
    try:
        assert default.tool(name="search")(lambda: 1)() == 1
    finally:
        run.set_default_run(None)
    assert default.flush(20)
    assert ledger.decisions() == [("tool_call", "allow"), ("tool_result", "allow")]
