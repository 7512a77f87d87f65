"""Who is governed: functions of every kind, and all they start."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import multiprocessing.pool
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Gateway, Ledger

from agent_assembly import AgentAssembly, ConfigurationError, GatewayUnreachable, PolicyDenied, current_run


def name_of_current() -> str | None:
    run = current_run()
    return None if run is None else run.agent.name


async def test_every_kind_of_function_runs_as_its_agent_and_leaves_it_after(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.agent(name=ledger.agent)
    def plain() -> str | None:
        return name_of_current()

    @aaa.agent(name=ledger.agent)
    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return name_of_current()

    @aaa.agent(name=ledger.agent)
    def generator() -> Iterator[str | None]:
        sent = yield name_of_current()
        assert sent == "sent"
        yield name_of_current()

    @aaa.agent(name=ledger.agent)
    async def async_generator() -> AsyncIterator[str | None]:
        yield name_of_current()
        await asyncio.sleep(0)
        yield name_of_current()

    assert plain() == ledger.agent
    assert await coroutine() == ledger.agent
    steps = generator()
    assert next(steps) == ledger.agent
    assert name_of_current() is None, "between two steps the caller is itself"
    assert steps.send("sent") == ledger.agent
    async for name in async_generator():
        assert name == ledger.agent
        assert name_of_current() is None
    assert name_of_current() is None


async def test_errors_and_closing_reach_into_generators(aaa: AgentAssembly, ledger: Ledger) -> None:
    seen: list[str | None] = []

    @aaa.agent(name=ledger.agent)
    def generator() -> Iterator[int]:
        try:
            yield 1
        except KeyError:
            seen.append(name_of_current())
            yield 2
        finally:
            seen.append(name_of_current())

    @aaa.agent(name=ledger.agent)
    async def async_generator() -> AsyncIterator[int]:
        try:
            yield 1
        except KeyError:
            yield 2
        finally:
            seen.append(name_of_current())

    steps = generator()
    next(steps)
    assert steps.throw(KeyError()) == 2  # type: ignore[attr-defined]
    steps.close()  # type: ignore[attr-defined]
    async_steps = async_generator()
    await anext(async_steps)
    assert await async_steps.athrow(KeyError()) == 2  # type: ignore[attr-defined]
    await async_steps.aclose()  # type: ignore[attr-defined]
    assert seen == [ledger.agent] * 3


async def test_the_agent_follows_threads_pools_and_tasks(aaa: AgentAssembly, ledger: Ledger) -> None:
    shared = ThreadPoolExecutor(1)
    pool = multiprocessing.pool.ThreadPool(1)

    @aaa.agent(name=ledger.agent)
    async def run() -> list[str | None]:
        names: list[str | None] = []
        thread = threading.Thread(target=lambda: names.append(name_of_current()))
        thread.start()
        thread.join()
        names.append(shared.submit(name_of_current).result())
        names += shared.map(lambda _: name_of_current(), [0])
        names += pool.map(lambda _: name_of_current(), [0])
        names.append(await asyncio.to_thread(name_of_current))
        names.append(await asyncio.get_running_loop().run_in_executor(None, name_of_current))

        async def task() -> None:
            names.append(name_of_current())

        await asyncio.gather(task(), task())
        return names

    assert await run() == [ledger.agent] * 8
    # Workers that an agent started do not stay its own.
    assert shared.submit(name_of_current).result() is None
    assert pool.map(lambda _: name_of_current(), [0]) == [None]


def test_two_agents_at_once_are_kept_apart(aaa: AgentAssembly, ledger: Ledger) -> None:
    barrier = threading.Barrier(2, timeout=20)

    def run_as(name: str) -> str | None:
        with aaa.run(name):
            barrier.wait()
            return name_of_current()

    with ThreadPoolExecutor(2) as threads:
        other = f"{ledger.agent}-2"
        assert list(threads.map(run_as, [ledger.agent, other])) == [ledger.agent, other]


def test_an_agent_inside_another_is_asked_about_as_its_child(aaa: AgentAssembly, ledger: Ledger) -> None:
    child = aaa.agent(name=f"{ledger.agent}-child")(name_of_current)
    assert aaa.agent(name=ledger.agent)(child)() == f"{ledger.agent}-child"
    assert ledger.decisions() == [("agent_spawn", "allow")]

    childless = aaa.agent(name=f"{ledger.agent}-solo", team="childless")(child)
    with pytest.raises(PolicyDenied) as denied:
        childless()
    assert denied.value.action is not None
    assert denied.value.action.kind == "agent_spawn"


def test_the_three_lines_of_the_quick_start_are_shown(gateway: Gateway) -> None:
    program = (
        "from agent_assembly import AgentAssembly\n"
        "aaa = AgentAssembly()\n"
        "@aaa.tool\n"
        "def search(query): return 'found'\n"
        "@aaa.agent(name='shown')\n"
        "def run(): return search('x')\n"
        "print(run())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **gateway.client}, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "found\n", done.stderr
    workspace = gateway.client["AAA_WORKSPACE_ID"][:7]
    lines = done.stderr.splitlines()
    assert lines[0] == f"[AAASM] Agent registered: shown (workspace: {workspace}...)"
    assert lines[1] == "[AAASM] Policy check: ALLOW event=tool_call agent=shown"
    assert re.fullmatch(r"\[AAASM\] Audit event written: id=evt_[0-9a-z]{26} latency=[1-9]\d*ms", lines[2])


def test_a_program_with_logging_of_its_own_gets_the_lines_there(
    aaa: AgentAssembly, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="agent_assembly"), aaa.run(ledger.agent):
        pass
    assert f"[AAASM] Agent registered: {ledger.agent}" in caplog.text


def test_a_forked_child_registers_for_itself(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def work(place: str) -> str:
        return place

    with aaa.run(ledger.agent):
        work("parent")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, work("child").encode())
                aaa.flush(10)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            assert answer.read() == b"child"
        os.waitpid(child, 0)
        work("parent")
    assert ledger.decisions() == [("tool_call", "allow"), ("tool_result", "allow")] * 3


def test_all_of_one_run_shares_a_trace(aaa: AgentAssembly, ledger: Ledger) -> None:
    @aaa.tool
    def work() -> None: ...

    for _ in range(2):
        with aaa.run(ledger.agent):
            work()
            work()
    traces = [entry["trace"] for entry in ledger.entries() if entry["kind"] == "decision"]
    assert len(traces) == 8
    assert len(set(traces[:4])) == len(set(traces[4:])) == 1
    assert traces[0] != traces[4]


def test_settings_are_checked_at_once_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AAA_WORKSPACE_ID", "AAA_API_KEY", "AAA_GATEWAY_URL", "AAA_CA_FILE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConfigurationError, match="AAA_WORKSPACE_ID is not set"):
        AgentAssembly()
    with pytest.raises(ConfigurationError, match="AAA_GATEWAY_URL is not usable"):
        AgentAssembly(workspace_id=f"ws-{uuid.uuid4()}", api_key="k", gateway_url="gateway")
    with pytest.raises(TypeError, match="needs a name"):
        AgentAssembly.agent(object(), "")  # type: ignore[arg-type]


def test_an_api_key_shows_nowhere(aaa: AgentAssembly, gateway: Gateway) -> None:
    assert gateway.client["AAA_API_KEY"] not in repr(aaa) + repr(aaa.client())


def _nobody(on_unreachable: str) -> AgentAssembly:
    return AgentAssembly(
        workspace_id=f"ws-{uuid.uuid4()}",
        api_key="k",
        gateway_url="http://127.0.0.1:9",
        on_unreachable=on_unreachable,  # type: ignore[arg-type]
        request_timeout=0.3,
    )


async def test_without_a_gateway_nothing_runs() -> None:
    ran: list[int] = []
    nobody = _nobody("deny")
    run = nobody.agent(name="lonely")(lambda: ran.append(1))
    with pytest.raises(GatewayUnreachable, match="127.0.0.1:9"):
        run()

    @nobody.agent(name="lonely")
    async def run_async() -> None:
        ran.append(1)

    with pytest.raises(GatewayUnreachable):
        await run_async()
    assert ran == []


def test_ctrl_c_ends_the_wait_for_a_decision() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stuck = AgentAssembly(
            workspace_id=f"ws-{uuid.uuid4()}",
            api_key="k",
            gateway_url=f"http://127.0.0.1:{silent.getsockname()[1]}",
            request_timeout=50,
        )
        # A job in the background inherits that the signal is ignored.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            begun = time.monotonic()
            with pytest.raises(KeyboardInterrupt), stuck.run("lonely"):
                pass
            assert time.monotonic() - begun < 20
        finally:
            signal.signal(signal.SIGINT, before)


def test_a_process_of_multiprocessing_is_governed_and_reports(aaa: AgentAssembly, ledger: Ledger) -> None:
    with aaa.run(ledger.agent):
        child = multiprocessing.get_context("fork").Process(target=aaa.tool(name="work")(lambda: None))
        child.start()
        child.join(20)
    assert child.exitcode == 0
    assert ledger.decisions() == [("tool_call", "allow"), ("tool_result", "allow")]
    assert ledger.outcomes() == [("tool_call", "ok")]


def test_an_owner_can_choose_to_go_on_without_a_gateway(caplog: pytest.LogCaptureFixture) -> None:
    nobody = _nobody("allow")
    tool = nobody.tool(name="search")(lambda: "done")
    with nobody.run("lonely"):
        assert tool() == "done"
    assert "ungoverned" in caplog.text
    assert not nobody.flush(0.1)
