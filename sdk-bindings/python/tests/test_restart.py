"""An agent outlives its gateway."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from conftest import BOUND, Gateway, Ledger

from agent_assembly import AgentAssembly


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_calls_go_on_after_the_gateway_was_restarted(tmp_path: Path, end: str) -> None:
    ports = (free_port(), free_port())
    gateway = Gateway(tmp_path / "data", *ports)
    try:
        client = gateway.client
        aaa = AgentAssembly(
            workspace_id=client["AAA_WORKSPACE_ID"],
            api_key=client["AAA_API_KEY"],
            gateway_url=client["AAA_GATEWAY_URL"],
            ca_file=client.get("AAA_CA_FILE"),
            request_timeout=BOUND,
        )
        work = aaa.tool(name="work")(lambda number: number)
        with aaa.run("survivor"):
            assert [work(number) for number in range(10)] == list(range(10))
            assert aaa.flush(BOUND)
            # Calls are made all the while; those that meet no gateway wait for the next one.
            done: list[int] = []
            caller = threading.Thread(target=lambda: done.extend(work(number) for number in range(200)))
            caller.start()
            getattr(gateway, end)()
            gateway = Gateway(tmp_path / "data", *ports)
            caller.join(2 * BOUND)
            assert done == list(range(200))
        decisions = Ledger(gateway, aaa, "survivor").decisions()
        assert decisions == [("tool_call", "allow"), ("tool_result", "allow")] * 210, "each exactly once"
    finally:
        gateway.stop()
