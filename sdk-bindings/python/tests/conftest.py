"""A real gateway for all tests, and a scripted model provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import OpenAIServer

from agent_assembly import AgentAssembly

TESTS = Path(__file__).parent
ROOT = TESTS.parents[2]
BOUND = 30.0

sys.path.insert(0, str(TESTS))


class Gateway:
    """`aasm up` on free ports, or on given ones."""

    def __init__(self, data: Path, gateway_port: int = 0, api_port: int = 0) -> None:
        self.data = data
        self.binary = os.environ.get("AASM_BIN") or str(ROOT / "target" / "debug" / "aasm")
        command = [self.binary, "up", "--data", str(data)]
        command += ["--gateway", f"127.0.0.1:{gateway_port}", "--api", f"127.0.0.1:{api_port}"]
        self.log = data.parent / f"{data.name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._await(data / "client.env")
        self._await(data / "operator.env")
        self.client = _exports(data / "client.env")
        self.environment = {**os.environ, **_exports(data / "operator.env"), "AASM_DATA": str(data)}

    def _await(self, path: Path) -> None:
        deadline = time.monotonic() + BOUND
        while not path.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"`aasm up` did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def aasm(self, *arguments: str) -> str:
        """Runs one command of the operator."""
        done = subprocess.run(
            [self.binary, *arguments], env=self.environment, capture_output=True, text=True, timeout=BOUND
        )
        assert done.returncode == 0, f"aasm {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def kill(self) -> None:
        """Ends it between any two instructions."""
        self.process.kill()
        self.process.wait(BOUND)

    def stop(self) -> None:
        """Lets it drain."""
        self.process.terminate()
        try:
            self.process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def _exports(path: Path) -> dict[str, str]:
    pairs = (
        line.removeprefix("export ").split("=", 1)
        for line in path.read_text().splitlines()
        if line.startswith("export ")
    )
    return {name: value.strip("'\"") for name, value in pairs}


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("aasm") / "data")
    try:
        for policy in sorted((TESTS / "policies").glob("*.yaml")):
            gateway.aasm("policy", "apply", str(policy))
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture(scope="session")
def aaa(gateway: Gateway) -> Iterator[AgentAssembly]:
    client = gateway.client
    assembly = AgentAssembly(
        workspace_id=client["AAA_WORKSPACE_ID"],
        api_key=client["AAA_API_KEY"],
        gateway_url=client["AAA_GATEWAY_URL"],
        ca_file=client.get("AAA_CA_FILE"),
        request_timeout=15,
        wait_for_approval=False,
    )
    yield assembly
    assert assembly.flush(BOUND)


class Ledger:
    """What the audit log holds of one agent."""

    def __init__(self, gateway: Gateway, aaa: AgentAssembly, agent: str) -> None:
        self.agent = agent
        self._gateway = gateway
        self._aaa = aaa
        self.id = str(uuid.uuid5(uuid.UUID(aaa.workspace_id.removeprefix("ws-")), agent))

    def entries(self) -> list[dict[str, Any]]:
        assert self._aaa.flush(BOUND)
        lines = self._gateway.aasm("audit", "export", "--format", "jsonl").splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
        return [entry for entry in entries if entry.get("stream") == f"agent:{self.id}"]

    def decisions(self) -> list[tuple[str, str]]:
        """Kind and verdict of every decision, in order."""
        return [
            (entry["action"]["kind"], entry["verdict"])
            for entry in self.entries()
            if entry["kind"] == "decision"
        ]

    def outcomes(self) -> list[tuple[str, str]]:
        """Kind and outcome of every reported end, in any order."""
        return sorted(
            (entry["action"]["kind"], _outcome(entry)) for entry in self.entries() if entry["kind"] == "event"
        )


def _outcome(entry: dict[str, Any]) -> str:
    return str(entry.get("outcome") or (entry.get("detail") or {}).get("outcome"))


@pytest.fixture
def ledger(gateway: Gateway, aaa: AgentAssembly, request: pytest.FixtureRequest) -> Ledger:
    """The audit log of an agent that only the test at hand uses."""
    return Ledger(gateway, aaa, f"{request.node.name[:80]}-{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="session")
def _provider() -> Iterator[OpenAIServer]:
    server = OpenAIServer().start()
    yield server
    server.stop()


@pytest.fixture
def provider(_provider: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.setenv("OPENAI_BASE_URL", _provider.url)
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    _provider.script()
    return _provider
