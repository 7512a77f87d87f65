"""The OpenAI client, used as its documentation has it."""

from __future__ import annotations

import asyncio
import io
import traceback
import types

import openai
import pytest
from conftest import Ledger
from openai_server import OpenAIServer, Reply

from agent_assembly import AgentAssembly, InstrumentationError, PolicyDenied, instrument
from agent_assembly.run import unusable_libraries

SECRET = "AKIA" + "ABCDEFGHIJKLMNOP"
PAIR = [("llm_call", "allow"), ("llm_result", "allow")]
HELLO = [{"role": "user", "content": "hello"}]


def ask(content: str = "hello", **more: object) -> openai.types.chat.ChatCompletion:
    client = openai.OpenAI(max_retries=0)
    return client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": content}], **more  # type: ignore[call-overload]
    )


def test_outside_an_agent_the_client_is_as_it_was(provider: OpenAIServer) -> None:
    assert ask(SECRET).choices[0].message.content == "Hello from the model."


def test_a_call_is_one_question_one_answer_and_one_outcome(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    with aaa.run(ledger.agent):
        assert ask().choices[0].message.content == "Hello from the model."
    assert ledger.decisions() == PAIR
    assert ledger.outcomes() == [("llm_call", "ok")]
    call, result = (entry["action"] for entry in ledger.entries() if entry["kind"] == "decision")
    assert (call["model"], call["host"]) == ("gpt-4o", "127.0.0.1")
    assert "11" in str(result) and "7" in str(result), "the usage the provider reported"


def test_a_denied_call_does_not_leave(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    with aaa.run(ledger.agent):
        for content, more in ((SECRET, {}), ("hello", {"tools": [{"type": "function", "function": {"name": "f", "description": SECRET}}]})):
            with pytest.raises(PolicyDenied):
                ask(content, **more)
        with pytest.raises(PolicyDenied):
            openai.OpenAI().chat.completions.create(model="forbidden-model", messages=HELLO)  # type: ignore[arg-type]
        with pytest.raises(PolicyDenied) as denied:
            openai.OpenAI(base_url="http://models.example/v1", max_retries=0).chat.completions.create(
                model="gpt-4o", messages=HELLO  # type: ignore[arg-type]
            )
    assert denied.value.action is not None and denied.value.action.host == "models.example"
    assert provider.requests == []


def test_a_secret_in_an_answer_is_withheld(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    provider.script(Reply(SECRET), Reply(tool_calls=[("send", {"body": SECRET})]), Reply(SECRET, status=400))
    with aaa.run(ledger.agent):
        for _ in range(3):
            with pytest.raises(PolicyDenied) as denied:
                ask()
            assert SECRET not in "".join(traceback.format_exception(denied.value))
            assert denied.value.action is not None and denied.value.action.kind == "llm_result"
    assert ledger.decisions() == [("llm_call", "allow"), ("llm_result", "deny")] * 3


@pytest.mark.parametrize("chunks", [["CUT", "OFF-12", "345678", " rest"], ["safe ", "words"]])
def test_a_stream_hands_on_nothing_before_the_whole_was_looked_at(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer, chunks: list[str]
) -> None:
    provider.script(Reply(chunks=chunks))
    seen: list[str] = []

    def run() -> None:
        with openai.OpenAI(max_retries=0).chat.completions.create(model="gpt-4o", messages=HELLO, stream=True) as stream:  # type: ignore[call-overload]
            seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)

    with aaa.run(ledger.agent):
        if chunks[0] == "CUT":
            with pytest.raises(PolicyDenied):
                run()
            assert seen == []
        else:
            run()
            assert "".join(seen) == "safe words"
            assert ledger.decisions() == PAIR


async def test_the_asynchronous_client_and_its_streams(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    client = openai.AsyncOpenAI(max_retries=0)
    with aaa.run(ledger.agent):
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="gpt-4o", messages=HELLO) for _ in range(5))  # type: ignore[call-overload]
        )
        assert {answer.choices[0].message.content for answer in answers} == {"Hello from the model."}
        stream = await client.chat.completions.create(
            model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}  # type: ignore[call-overload]
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == "Hello from the model."
        provider.script(Reply(SECRET))
        with pytest.raises(PolicyDenied):
            await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)  # type: ignore[call-overload]
    decisions = ledger.decisions()
    assert decisions.count(("llm_call", "allow")) == 7
    assert decisions.count(("llm_result", "allow")) == 6
    assert decisions.count(("llm_result", "deny")) == 1


def test_every_other_way_to_ask_is_governed_as_well(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    client = openai.OpenAI(max_retries=0)
    with aaa.run(ledger.agent):
        assert client.responses.create(model="gpt-4o", input="hello").output_text == "Hello from the model."
        events = list(client.responses.create(model="gpt-4o", input="hello", stream=True))
        assert events[-1].type == "response.completed"
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)  # type: ignore[call-overload]
        assert raw.parse().choices[0].message.content == "Hello from the model."
        with client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=HELLO) as response:  # type: ignore[call-overload]
            assert "Hello from the model." in "".join(response.iter_text())
        parsed = client.chat.completions.parse(model="gpt-4o", messages=HELLO)  # type: ignore[arg-type]
        assert parsed.choices[0].message.content == "Hello from the model."
        with client.chat.completions.stream(model="gpt-4o", messages=HELLO) as stream:  # type: ignore[arg-type]
            assert stream.get_final_completion().choices[0].message.content == "Hello from the model."
        assert client.embeddings.create(model="embed", input=["hello"]).data[0].embedding == [0.5, 0.25]
        assert client.completions.create(model="old", prompt="hello").choices[0].text == "Hello from the model."
    assert ledger.decisions() == PAIR * 8


def test_what_the_other_ways_carry_is_looked_at(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    client = openai.OpenAI(max_retries=0)
    with aaa.run(ledger.agent):
        for call in (
            lambda: client.responses.create(model="gpt-4o", input=SECRET),
            lambda: client.embeddings.create(model="embed", input=[SECRET]),
            lambda: client.chat.completions.with_raw_response.create(model="gpt-4o", messages=[{"role": "user", "content": SECRET}]),
            lambda: client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_body={"note": SECRET}),  # type: ignore[call-overload]
            lambda: client.files.create(file=io.BytesIO(SECRET.encode()), purpose="user_data"),
            lambda: client.post("/anything", body={"note": SECRET}, cast_to=object),
        ):
            with pytest.raises(PolicyDenied):
                call()  # type: ignore[no-untyped-call]
        assert provider.requests == []
        provider.script(Reply(SECRET), Reply(SECRET))
        with pytest.raises(PolicyDenied):
            client.responses.create(model="gpt-4o", input="hello", stream=True)
        with pytest.raises(PolicyDenied):
            client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)  # type: ignore[call-overload]


def test_what_cannot_be_looked_at_is_refused(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    client = openai.OpenAI(max_retries=0)
    with aaa.run(ledger.agent):
        with pytest.raises(InstrumentationError, match="token ids"):
            client.embeddings.create(model="embed", input=[[1, 2, 3]])
        with pytest.raises(InstrumentationError, match="WebSocket"), client.realtime.connect(model="gpt-realtime"):
            pass
    assert provider.requests == []


def test_a_redirect_carries_nothing_elsewhere(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    provider.script(Reply(f"{provider.url}/elsewhere", status=307))
    with aaa.run(ledger.agent), pytest.raises(openai.APIStatusError):
        ask()
    assert [path for path, _ in provider.requests] == ["/v1/chat/completions"]


def test_a_library_of_unknown_shape_stops_the_agents(
    aaa: AgentAssembly, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def patch(module: types.ModuleType) -> None:
        module.AbsentClient  # noqa: B018

    tool = aaa.tool(name="search")(lambda: "found")
    instrument._apply(patch, types.ModuleType("novel_client"))
    try:
        with aaa.run(ledger.agent), pytest.raises(InstrumentationError, match="novel_client is not known"):
            tool()
        assert "novel_client" in caplog.text
    finally:
        unusable_libraries.clear()
    with aaa.run(ledger.agent):
        assert tool() == "found"


def test_a_plain_read_is_a_connection(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    with aaa.run(ledger.agent):
        assert [model.id for model in openai.OpenAI(max_retries=0).models.list()] == ["gpt-4o"]
    assert ledger.decisions() == [("network_connect", "allow"), ("llm_result", "allow")]


def test_a_failed_call_is_reported_as_such(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    provider.script(Reply("nothing here", status=500))
    with aaa.run(ledger.agent), pytest.raises(openai.InternalServerError):
        ask()
    assert ledger.outcomes() == [("llm_call", "error")]
    provider.script(Reply("busy", status=429), Reply("there"))
    with aaa.run(ledger.agent):
        client = openai.OpenAI(max_retries=1)
        answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == "there"
    assert ledger.decisions()[-2:] == PAIR, "retries are one call"
