"""LangChain agents, unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import openai
import pytest
from conftest import Gateway, Ledger
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, Tool, tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai_server import OpenAIServer, Reply

from agent_assembly import AgentAssembly, InstrumentationError, PolicyDenied

SECRET = "AKIA" + "ABCDEFGHIJKLMNOP"
MODEL_PAIR = [("llm_call", "allow"), ("llm_result", "allow")]
TOOL_PAIR = [("tool_call", "allow"), ("tool_result", "allow")]


@tool
def summarise(text: str) -> str:
    """Returns the beginning of a text."""
    return text[:200]


@tool
def bash(command: str) -> str:
    """Runs a command."""
    raise AssertionError("it ran")


@tool
async def fetch(path: str) -> str:
    """Reads a path."""
    return SECRET if path == "secret" else f"content of {path}"


class Parrot(BaseChatModel):
    """A model of no provider that repeats its prompt."""

    model: str = "parrot"

    @property
    def _llm_type(self) -> str:
        return "parrot"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        message = AIMessage(str(messages[-1].content).replace("please leak", SECRET))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        for piece in str(messages[-1].content).replace("please leak", "CUT|OFF-|12345678").split("|"):
            yield ChatGenerationChunk(message=AIMessageChunk(piece))


def agent_executor(executor_module: Any, tools: list[BaseTool], **model: Any) -> Any:
    from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

    prompt = ChatPromptTemplate.from_messages(
        [("system", "You help."), ("human", "{input}"), MessagesPlaceholder(variable_name="agent_scratchpad")]
    )
    llm = ChatOpenAI(model="gpt-4o", temperature=0, max_retries=0, **model)
    agent = executor_module.create_openai_tools_agent(llm, tools, prompt)
    return executor_module.AgentExecutor(agent=agent, tools=tools)


@pytest.fixture
def executor_module() -> Any:
    try:
        from langchain.agents import AgentExecutor  # noqa: F401
    except ImportError:
        return pytest.importorskip("langchain_classic.agents")
    import langchain.agents

    return langchain.agents


def test_the_quick_start_agent_is_governed_as_it_is(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer, executor_module: Any
) -> None:
    provider.script(Reply(tool_calls=[("summarise", {"text": "a long story"})]), Reply("It is about a story."))
    executor = agent_executor(executor_module, [summarise])
    with aaa.run(ledger.agent):
        assert executor.invoke({"input": "What is it about?"})["output"] == "It is about a story."
    assert ledger.decisions() == [*MODEL_PAIR, *TOOL_PAIR, *MODEL_PAIR]
    assert ledger.outcomes() == [("llm_call", "ok"), ("llm_call", "ok"), ("tool_call", "ok")]


def test_a_denied_tool_ends_the_run_before_it_is_called(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer, executor_module: Any
) -> None:
    provider.script(Reply(tool_calls=[("bash", {"command": "ls"})]))
    executor = agent_executor(executor_module, [bash])
    with aaa.run(ledger.agent), pytest.raises(PolicyDenied) as denied:
        executor.invoke({"input": "List files."})
    assert denied.value.reasons[0].path == "spec.tools.bash.allow"
    assert ledger.decisions() == [*MODEL_PAIR, ("tool_call", "deny")]


async def test_an_asynchronous_streaming_agent_is_governed_the_same(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer, executor_module: Any
) -> None:
    provider.script(Reply(tool_calls=[("fetch", {"path": "notes"})]), Reply("Done."))
    executor = agent_executor(executor_module, [fetch], streaming=True)
    with aaa.run(ledger.agent):
        outputs = [step async for step in executor.astream({"input": "Read."})]
        assert outputs[-1]["output"] == "Done."
    assert ledger.decisions() == [*MODEL_PAIR, *TOOL_PAIR, *MODEL_PAIR]
    provider.script(Reply(tool_calls=[("fetch", {"path": "secret"})]))
    with aaa.run(ledger.agent), pytest.raises(PolicyDenied) as denied:
        await executor.ainvoke({"input": "Read."})
    assert denied.value.action is not None and denied.value.action.kind == "tool_result"


def test_the_agents_of_langchain_1_are_governed(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    agents = pytest.importorskip("langchain.agents")
    if not hasattr(agents, "create_agent"):
        pytest.skip("an earlier LangChain")
    agent = agents.create_agent(ChatOpenAI(model="gpt-4o", max_retries=0), [summarise, bash])
    provider.script(Reply(tool_calls=[("summarise", {"text": "a story"})]), Reply("Told."))
    with aaa.run(ledger.agent):
        result = agent.invoke({"messages": [{"role": "user", "content": "Tell."}]})
    assert result["messages"][-1].content == "Told."
    assert ledger.decisions() == [*MODEL_PAIR, *TOOL_PAIR, *MODEL_PAIR]
    provider.script(Reply(tool_calls=[("bash", {"command": "ls"})]))
    with aaa.run(ledger.agent), pytest.raises(PolicyDenied):
        agent.invoke({"messages": [{"role": "user", "content": "List."}]})


async def test_every_way_to_call_a_model_on_the_openai_client_is_one_call(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    llm = ChatOpenAI(model="gpt-4o", max_retries=0)
    responses = ChatOpenAI(model="gpt-4o", max_retries=0, use_responses_api=True)
    with aaa.run(ledger.agent):
        assert llm.invoke("hello").content == "Hello from the model."
        assert (await llm.ainvoke("hello")).content == "Hello from the model."
        assert "".join(str(chunk.content) for chunk in llm.stream("hello")) == "Hello from the model."
        assert "".join([str(chunk.content) async for chunk in llm.astream("hello")]) == "Hello from the model."
        assert len(llm.batch(["one", "two"])) == 2
        assert "Hello from the model." in str(responses.invoke("hello").content)
    decisions = ledger.decisions()
    assert decisions.count(("llm_call", "allow")) == 7 == decisions.count(("llm_result", "allow"))
    assert len(provider.requests) == 7
    with aaa.run(ledger.agent):
        with pytest.raises(PolicyDenied):
            llm.invoke(SECRET)
        with pytest.raises(PolicyDenied):
            next(llm.stream(SECRET))
    assert len(provider.requests) == 7


def test_a_model_that_goes_around_the_openai_client_is_withheld(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    class Elsewhere(ChatOpenAI):
        def _generate(self, *_: Any, **__: Any) -> ChatResult:
            return ChatResult(generations=[ChatGeneration(message=AIMessage("from elsewhere"))])

    with aaa.run(ledger.agent), pytest.raises(InstrumentationError, match="withheld"):
        Elsewhere(model="gpt-4o").invoke("hello")


async def test_models_of_other_providers_are_governed_where_they_are_implemented(
    aaa: AgentAssembly, ledger: Ledger
) -> None:
    with aaa.run(ledger.agent):
        assert Parrot().invoke("hello").content == "hello"
        assert (await Parrot().ainvoke("hello")).content == "hello"
        assert "".join(str(chunk.content) for chunk in Parrot().stream("a|b")) == "ab"
        assert "".join([str(chunk.content) async for chunk in Parrot().astream("a|b")]) == "ab"
        assert FakeListLLM(responses=["fine"]).invoke("hello") == "fine"
    assert ledger.decisions() == MODEL_PAIR * 5
    with aaa.run(ledger.agent):
        for prompt in (SECRET, "please leak"):
            with pytest.raises(PolicyDenied):
                Parrot().invoke(prompt)
            with pytest.raises(PolicyDenied):
                next(Parrot().stream(prompt))
        with pytest.raises(PolicyDenied):
            FakeListLLM(responses=[SECRET]).invoke("hello")


def test_a_model_of_ones_own_on_the_openai_client_is_one_call_and_cannot_add_to_it(
    aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer
) -> None:
    class Wrapping(BaseChatModel):
        model: str = "gpt-4o"
        addition: str = ""

        @property
        def _llm_type(self) -> str:
            return "wrapping"

        def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
            sent = [{"role": "user", "content": f"{message.content}{self.addition}"} for message in messages]
            client = openai.OpenAI(max_retries=0)
            answer = client.chat.completions.create(model=self.model, messages=sent)  # type: ignore[call-overload]
            message = AIMessage(answer.choices[0].message.content or "")
            return ChatResult(generations=[ChatGeneration(message=message)])

    with aaa.run(ledger.agent):
        assert Wrapping().invoke("hello").content == "Hello from the model."
        assert ledger.decisions() == MODEL_PAIR
        with pytest.raises(PolicyDenied):
            Wrapping(addition=SECRET).invoke("hello")
    assert len(provider.requests) == 1


async def test_tools_of_every_make_are_governed(aaa: AgentAssembly, ledger: Ledger) -> None:
    class Classic(BaseTool):
        name: str = "classic"
        description: str = "An old one."

        def _run(self, query: str) -> str:
            return query

    plain = Tool(name="plain", func=lambda text: text, description="Takes one text.")
    structured = StructuredTool.from_function(func=lambda a, b: a + b, name="structured", description="Adds.")
    with aaa.run(ledger.agent):
        assert Classic().invoke("q") == "q"
        assert await Classic().ainvoke({"query": "q"}) == "q"
        assert plain.invoke("text") == "text"
        assert structured.invoke({"a": 1, "b": 2}) == 3
        assert await fetch.ainvoke({"path": "x"}) == "content of x"
        assert summarise.run("text") == "text"
    assert ledger.decisions() == TOOL_PAIR * 6
    with aaa.run(ledger.agent):
        for denied in (lambda: bash.invoke({"command": "ls"}), lambda: Classic().invoke(SECRET), lambda: plain.invoke(SECRET)):
            with pytest.raises(PolicyDenied):
                denied()
        with pytest.raises(PolicyDenied):
            await fetch.ainvoke({"path": "secret"})


def test_what_the_framework_injects_is_no_argument_of_the_call(aaa: AgentAssembly, ledger: Ledger) -> None:
    @tool
    def recall(query: str, state: Annotated[dict[str, str], InjectedToolArg], config: RunnableConfig) -> str:
        """Recalls something."""
        return query

    with aaa.run(ledger.agent):
        assert recall.invoke({"query": "q", "state": {"history": SECRET}}, config={"tags": ["t"]}) == "q"
    assert ledger.decisions() == TOOL_PAIR


def test_callbacks_do_not_see_what_the_agent_must_not(aaa: AgentAssembly, ledger: Ledger) -> None:
    seen: list[Any] = []

    class Spy(BaseCallbackHandler):
        def on_tool_end(self, output: Any, **_: Any) -> None:
            seen.append(output)

        def on_llm_new_token(self, token: str, **_: Any) -> None:
            seen.append(token)

        def on_llm_end(self, response: Any, **_: Any) -> None:
            seen.append(response)

    leak = StructuredTool.from_function(func=lambda: SECRET, name="leak", description="Leaks.")
    with aaa.run(ledger.agent):
        with pytest.raises(PolicyDenied):
            leak.invoke({}, config={"callbacks": [Spy()]})
        with pytest.raises(PolicyDenied):
            list(Parrot().stream("please leak", config={"callbacks": [Spy()]}))
    assert not any(SECRET in str(thing) or "CUT" in str(thing) for thing in seen)


def test_embeddings_are_governed_by_their_text(aaa: AgentAssembly, ledger: Ledger, provider: OpenAIServer) -> None:
    class Zeroes(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[0.0] for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            return [0.0]

    with aaa.run(ledger.agent):
        assert Zeroes().embed_documents(["a", "b"]) == [[0.0], [0.0]]
        remote = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False, max_retries=0)
        assert len(remote.embed_documents(["a"])) == 1
        with pytest.raises(PolicyDenied):
            remote.embed_query(SECRET)
        with pytest.raises(PolicyDenied):
            Zeroes().embed_query(SECRET)
    assert ledger.decisions() == [*MODEL_PAIR * 2, ("llm_call", "deny"), ("llm_call", "deny")]


def test_a_governed_function_inside_a_langchain_tool_is_one_tool(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def lookup(city: str) -> str:
        """Looks a city up."""
        return city

    with aaa.run(ledger.agent):
        assert tool(lookup).invoke({"city": "Taipei"}) == "Taipei"
    assert ledger.decisions() == TOOL_PAIR


def test_libraries_loaded_later_are_governed_too(gateway: Gateway, provider: OpenAIServer) -> None:
    program = Path(__file__).with_name("loaded_later.py")
    done = subprocess.run(
        [sys.executable, str(program)], env={**os.environ, **gateway.client}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["PolicyDenied", "PolicyDenied", "PolicyDenied"], done.stderr


