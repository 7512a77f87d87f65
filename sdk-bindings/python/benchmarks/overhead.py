"""What governing a tool call costs in this process, over what the gateway takes to answer.

    python overhead.py AASM ANSWERS [ROUNDS]

AASM and ANSWERS are the programs of those names. Each round times a tool call outside an agent; the same call
governed, with the lines that the SDK shows by default and without; and (by ANSWERS, a Rust program on a bare
stream) the two answers that a governed call waits for. All are medians, in microseconds.
"""

from __future__ import annotations

import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent_assembly import AgentAssembly

CALLS = 500
WARM_UP = 50
BOUND = 30.0


def main() -> None:
    aasm, answers = sys.argv[1], sys.argv[2]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with tempfile.TemporaryDirectory(dir=".") as directory:
        data = Path(directory) / "data"
        with (data.parent / "log").open("wb") as log:
            command = [aasm, "up", "--data", str(data), "--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0"]
            gateway = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            for name in ("client.env", "operator.env"):
                wait_for(data / name, gateway)
            measure(data, answers, rounds)
        finally:
            gateway.send_signal(signal.SIGTERM)
            gateway.wait(BOUND)


def wait_for(path: Path, gateway: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + BOUND
    while not path.exists():
        if gateway.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("`aasm up` did not start")
        time.sleep(0.02)


def measure(data: Path, answers: str, rounds: int) -> None:
    for line in (data / "client.env").read_text().splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        os.environ[name] = value.strip("'")
    aaa = AgentAssembly(instrument=False)

    @aaa.tool(name="web_search")
    def search(query: str, limit: int) -> str:
        return "found"

    logger = logging.getLogger("agent_assembly")
    overheads: dict[str, list[float]] = {"with lines": [], "without": []}
    print(f"{rounds} rounds of {CALLS} calls, load {os.getloadavg()[0]:.1f} at the start; µs")
    print(f"{'governed, with lines':>21} {'without':>9} {'two answers':>12} {'plain call':>11}")
    for _ in range(rounds):
        plain = median_of(search)
        governed = {}
        with aaa.run("benchmark"):
            for name, level in (("with lines", logging.INFO), ("without", logging.WARNING)):
                logger.setLevel(level)
                governed[name] = median_of(search)
        assert aaa.flush(BOUND)
        done = subprocess.run([answers, str(data), str(CALLS)], capture_output=True, text=True, timeout=BOUND)
        if done.returncode:
            raise RuntimeError(done.stderr)
        bare = float(done.stdout)
        for name, taken in governed.items():
            overheads[name].append(taken - bare - plain)
        row = f"{governed['with lines']:21.0f} {governed['without']:9.0f} {bare:12.0f} {plain:11.1f}"
        print(row, flush=True)
    for name, values in overheads.items():
        spread = f"{min(values):.0f}–{max(values):.0f}"
        print(f"overhead of a governed call, {name}: median {statistics.median(values):.0f} µs ({spread})")


def median_of(search: Callable[[str, int], str]) -> float:
    times = []
    for call in range(WARM_UP + CALLS):
        begun = time.perf_counter()
        search("governance of agents", 10)
        if call >= WARM_UP:
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


main()
