"""An agent before several gateways goes on when one of them goes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid

import pytest
from conftest import BOUND, Gateway, Ledger

from agent_assembly import AgentAssembly, ConfigurationError


class Door:
    """An address that leads to another until it is shut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def used(self) -> bool:
        return bool(self._open)

    def shut(self) -> None:
        """Ends every connection at once, and takes no more."""
        with self._lock:
            for end in [self._listener, *self._open]:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                with self._lock:
                    self._open += [near, far]
                for ends in [(near, far), (far, near)]:
                    threading.Thread(target=_pass, args=ends, daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)


def test_calls_go_on_at_the_next_gateway_and_are_decided_once(gateway: Gateway) -> None:
    client = gateway.client
    host, port = client["AAA_GATEWAY_URL"].removeprefix("https://").rsplit(":", 1)
    doors = [Door((host, int(port))) for _ in range(3)]
    aaa = AgentAssembly(
        workspace_id=client["AAA_WORKSPACE_ID"],
        api_key=client["AAA_API_KEY"],
        gateway_url=", ".join(door.url for door in doors),
        ca_file=client.get("AAA_CA_FILE"),
        request_timeout=BOUND,
    )
    work = aaa.tool(name="work")(lambda number: number)
    ledger = Ledger(gateway, aaa, f"traveller-{uuid.uuid4().hex[:8]}")
    done: list[int] = []
    passed, stop = threading.Event(), threading.Event()

    def call() -> None:
        while not stop.is_set():
            done.append(work(len(done)))
            passed.set()

    with aaa.run(ledger.agent):
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        left = doors
        for _ in range(2):
            used = _used(left)
            _passes(passed)
            left = [door for door in left if door is not used]
            used.shut()
        _passes(passed)
        stop.set()
        for caller in callers:
            caller.join(2 * BOUND)
    decisions = ledger.decisions()
    assert decisions.count(("tool_call", "allow")) == len(done), "each once"
    assert decisions.count(("tool_result", "allow")) == len(done)
    assert len(decisions) == 2 * len(done)
    for door in doors:
        door.shut()


def _passes(passed: threading.Event) -> None:
    for _ in range(20):
        passed.clear()
        assert passed.wait(BOUND), "calls go on"


def _used(doors: list[Door]) -> Door:
    """The one that connections go through, once they do."""
    deadline = time.monotonic() + BOUND
    while not any(door.used for door in doors):
        assert time.monotonic() < deadline, "no other gateway was connected to"
        time.sleep(0.001)
    (used,) = (door for door in doors if door.used)
    return used


@pytest.mark.parametrize(
    ("urls", "problem"),
    [
        ("https://a:1,,https://b:1", "address 2 is empty"),
        ("https://a:1 ftp://b:1", "address 2: write it as https://host:port"),
        ("https://a:1 https://A:1/", "names https://a:1 twice"),
        (" ".join(f"https://a:{port}" for port in range(1, 66)), "more than 64 gateways"),
    ],
)
def test_a_list_with_a_mistake_is_refused(urls: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"AAA_GATEWAY_URL is not usable: .*{problem}"):
        AgentAssembly(workspace_id=f"ws-{uuid.uuid4()}", api_key="k", gateway_url=urls)
