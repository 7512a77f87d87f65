"""Approvals as an agent's program, and the person it asks, meet them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import BOUND, Gateway, Ledger

from agent_assembly import AgentAssembly, ApprovalRequired, ConfigurationError, PolicyDenied


@pytest.fixture(scope="module")
def waiting(gateway: Gateway) -> Iterator[AgentAssembly]:
    """An assembly whose calls wait for people."""
    client = gateway.client
    yield AgentAssembly(
        workspace_id=client["AAA_WORKSPACE_ID"],
        api_key=client["AAA_API_KEY"],
        gateway_url=client["AAA_GATEWAY_URL"],
        ca_file=client.get("AAA_CA_FILE"),
        request_timeout=15,
    )


def pending(gateway: Gateway, agent: str) -> dict[str, Any]:
    """The request of an agent, once it is there."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        listed = json.loads(gateway.aasm("approval", "list", "--format", "json"))
        for request in listed["approvals"]:
            if request["agent"]["name"] == agent:
                return dict(request)
    raise AssertionError(f"no request of {agent}")


def answered(gateway: Gateway, agent: str, *answer: str) -> threading.Thread:
    """A person at a second terminal."""

    def answer_it() -> None:
        gateway.aasm("approval", answer[0], pending(gateway, agent)["id"], *answer[1:])

    person = threading.Thread(target=answer_it)
    person.start()
    return person


def test_a_call_waits_for_a_person_and_goes_on(waiting: AgentAssembly, gateway: Gateway, ledger: Ledger) -> None:
    made: list[int] = []

    @waiting.tool
    def transfer(amount: int) -> str:
        made.append(amount)
        return "done"

    with waiting.run(ledger.agent):
        person = answered(gateway, ledger.agent, "approve", "--reason", "as agreed")
        assert transfer(amount=500) == "done"
        person.join(BOUND)
        assert made == [500]
    assert [d for d in ledger.decisions() if d[0] == "tool_call"] == [
        ("tool_call", "require_approval"),
        ("tool_call", "allow"),
    ]


async def test_a_refusal_reaches_the_program_with_its_reason(
    waiting: AgentAssembly, gateway: Gateway, ledger: Ledger
) -> None:
    @waiting.tool
    async def transfer(amount: int) -> str:
        raise AssertionError("it must not be called")

    with waiting.run(ledger.agent):
        person = answered(gateway, ledger.agent, "deny", "--reason", "too much")
        with pytest.raises(PolicyDenied) as refused:
            await asyncio.wait_for(transfer(amount=600), BOUND)
        person.join(BOUND)
    assert refused.value.reasons[0].code == "approval_denied"
    assert "too much" in str(refused.value)


def test_an_approval_for_a_session_serves_further_calls_of_it(
    waiting: AgentAssembly, gateway: Gateway, ledger: Ledger
) -> None:
    @waiting.tool
    def transfer(amount: int) -> int:
        return amount

    with waiting.run(ledger.agent):
        person = answered(gateway, ledger.agent, "approve", "--session")
        assert transfer(amount=700) == 700
        person.join(BOUND)
        assert transfer(amount=800) == 800


def test_a_program_that_does_not_wait_is_told_the_request(aaa: AgentAssembly, ledger: Ledger, gateway: Gateway) -> None:
    @aaa.tool
    def transfer(amount: int) -> int:
        return amount

    with aaa.run(ledger.agent):
        with pytest.raises(ApprovalRequired) as needed:
            transfer(amount=900)
    assert needed.value.approval_id == pending(gateway, ledger.agent)["id"]
    assert uuid.UUID(needed.value.approval_id)


def test_a_time_to_wait_that_is_none_is_refused(gateway: Gateway) -> None:
    with pytest.raises(ConfigurationError):
        AgentAssembly(
            workspace_id=gateway.client["AAA_WORKSPACE_ID"],
            api_key=gateway.client["AAA_API_KEY"],
            wait_for_approval=-1,
        )


def test_people_are_told_what_a_call_is_for(waiting: AgentAssembly, gateway: Gateway, ledger: Ledger) -> None:
    @waiting.tool
    def transfer(amount: int) -> str:
        return "done"

    with waiting.run(ledger.agent):
        with pytest.raises(ValueError, match="2000 characters"), waiting.purpose("x" * 2_001):
            pass
        with waiting.purpose("refund that customer 4711 asked for"):
            called = threading.Thread(target=transfer, kwargs={"amount": 500})
            called.start()
        request = pending(gateway, ledger.agent)
        assert request["context"] == "refund that customer 4711 asked for"
        gateway.aasm("approval", "approve", request["id"])
        called.join(BOUND)
    assert [d for d in ledger.decisions() if d[0] == "tool_call"] == [
        ("tool_call", "require_approval"),
        ("tool_call", "allow"),
    ]
