"""Budgets as an agent's program meets them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from conftest import Gateway, Ledger
from openai_server import OpenAIServer, Reply

from agent_assembly import AgentAssembly, BudgetExceededError
from agent_assembly.instrument import openai as instrumented

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def a_cent_a_day(gateway: Gateway, ledger: Ledger, tmp_path: Path) -> None:
    policy = tmp_path / "budget.yaml"
    policy.write_text(
        f"""apiVersion: agent-assembly/v1
kind: Policy
metadata: {{name: budget-{ledger.id[:8]}, version: "1"}}
spec:
  scope: agent:{ledger.id}
  budget: {{daily_limit_usd: 0.01}}
"""
    )
    gateway.aasm("policy", "apply", str(policy))


def ask(max_tokens: int = 100, **more: Any) -> Any:
    client = openai.OpenAI(max_retries=0)
    return client.chat.completions.create(
        model="gpt-4o", messages=HELLO, max_tokens=max_tokens, **more  # type: ignore[call-overload]
    )


def charges(ledger: Ledger) -> list[tuple[str, int]]:
    """What each result was charged: from what it is known, and nano-dollars."""
    details = [entry.get("detail") or {} for entry in ledger.entries() if entry["kind"] == "decision"]
    return [(d["posted_by"], int(d["posted_nano_usd"])) for d in details if "posted_nano_usd" in d]


@pytest.mark.usefixtures("a_cent_a_day")
def test_a_call_that_would_pass_the_budget_is_not_made_and_says_where_the_budget_stands(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    with aaa.run(ledger.agent):
        ask()
        sent = len(provider.requests)
        with pytest.raises(BudgetExceededError) as refused:
            ask(max_tokens=1_000)
    assert len(provider.requests) == sent
    error = refused.value
    # 11 tokens of prompt at $2.50 and 7 of answer at $10 a million.
    assert (error.limit, error.spent, error.reserved) == (Decimal("0.01"), Decimal("0.0000975"), 0)
    now = datetime.now(timezone.utc)
    assert error.resets_at is not None and now < error.resets_at <= now + timedelta(days=1)
    assert error.budgets[0].window == "daily"
    assert "budget" in str(error) and "resets" in str(error)


@pytest.mark.usefixtures("a_cent_a_day")
def test_what_the_provider_reports_is_what_is_charged(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    with aaa.run(ledger.agent):
        ask()
    assert charges(ledger) == [("usage", 97_500)]


@pytest.mark.usefixtures("a_cent_a_day")
def test_a_call_the_provider_refused_costs_nothing(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    with aaa.run(ledger.agent):
        provider.script(Reply(text="too busy", status=429))
        with pytest.raises(openai.RateLimitError):
            ask()
    assert charges(ledger) == [("not_charged", 0)]


@pytest.mark.usefixtures("a_cent_a_day")
async def test_a_call_that_is_cancelled_is_charged_in_full(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = asyncio.Event()

    async def never(*_: Any, **__: Any) -> Any:
        left.set()
        await asyncio.Event().wait()

    with aaa.run(ledger.agent):
        client = openai.AsyncOpenAI(max_retries=0)
        monkeypatch.setattr(client._client, "send", never)
        call = asyncio.ensure_future(
            client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=100)  # type: ignore[arg-type]
        )
        await asyncio.wait_for(left.wait(), 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # In the order of the session: answered after what was sent before.
        await client.with_options(http_client=openai.DefaultAsyncHttpxClient()).models.list()
    charged = charges(ledger)
    assert [by for by, _ in charged] == ["reservation"]
    assert charged[0][1] >= 100 * 10_000


@pytest.mark.usefixtures("a_cent_a_day")
def test_a_stream_tells_its_usage_where_the_provider_can_and_the_program_does_not_notice(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with aaa.run(ledger.agent):
        chunks = list(ask(stream=True))
        monkeypatch.setattr(instrumented, "_TELL_USAGE", ("127.0.0.1",))
        asked = list(ask(stream=True))
    assert [chunk.choices[0].delta.content for chunk in asked] == [
        chunk.choices[0].delta.content for chunk in chunks
    ]
    assert all(chunk.usage is None for chunk in asked)
    (by, whole), (told, charged) = charges(ledger)
    assert (by, told, charged) == ("reservation", "usage", 97_500)
    assert whole > charged
