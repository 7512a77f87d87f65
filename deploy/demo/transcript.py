"""The demo: one governed LangChain agent, from start to verified audit log.

Everything shown is the output of the command above it. Every step is checked; the first that does not
come out as it should ends the demo with exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import os
import queue
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
POLICY = HERE / "research-assistant.yaml"
AGENT = "langchain-research-agent"
#: The longest any single command may take, in seconds.
PATIENCE = 60.0

# Made up here, so that no file of the project holds anything that looks like a credential.
CREDENTIAL = "sk-" + "demo" * 12
PASSWORD = "demo-only-3f9c1a"
PROXY_TOKEN = secrets.token_urlsafe(16)

BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class Unexpected(Exception):
    """A step did not come out as it should."""


@dataclass
class Demo:
    """The running parts, and where their files are."""

    aasm: Path
    proxy: Path
    work: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def data(self) -> Path:
        return self.work / "data"

    @property
    def export(self) -> Path:
        return self.work / "audit.jsonl"

    @property
    def keys(self) -> Path:
        return self.work / "audit-keys.json"

    def run(
        self, command: Sequence[str | Path], *, stdin: str = "", expect: int = 0, show: bool = True
    ) -> str:
        """Runs a command to its end and returns what it printed, errors included.

        Agents run in the work directory, so that whatever they write is there.
        """
        is_agent = command[0] == sys.executable
        shown = [os.path.relpath(part) if isinstance(part, Path) else part for part in command]
        if show:
            line = shlex.join(["python" if part == sys.executable else part for part in shown])
            line += f" <<< {shlex.quote(stdin)}" if stdin else ""
            print(masked(f"{DIM}$ {line}{PLAIN}"), flush=True)
        ran = subprocess.run(
            command if is_agent else [self.aasm, *shown[1:]],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if show else None,
            text=True,
            env=self.environment,
            cwd=self.work if is_agent else None,
            timeout=PATIENCE,
            # Ctrl-C is for the demo, which then ends what it started.
            start_new_session=True,
        )
        if show:
            tell(ran.stdout.rstrip())
        require(ran.returncode == expect, f"exit code {expect} of {shown[0]}", str(ran.returncode))
        return ran.stdout

    def entry(self, event: str) -> dict[str, Any]:
        """One audit entry, as the control plane recorded it."""
        found = self.run(
            ["aasm", "audit", "query", "--event", event, "--format", "json"], show=False
        )
        entries: list[dict[str, Any]] = json.loads(found)["entries"]
        require(len(entries) == 1, f"one audit entry {event}", f"{len(entries)}")
        return entries[0]


# --- the steps


def start(demo: Demo) -> None:
    heading(1, "The control plane and a model server start")
    print(f"{DIM}$ aasm up --data {os.path.relpath(demo.data)}{PLAIN}")
    for file in ("client.env", "operator.env"):
        for line in (demo.data / file).read_text().splitlines():
            if assignment := re.fullmatch(r"export (\w+)=(.*)", line):
                demo.environment[assignment[1]] = "".join(shlex.split(assignment[2]))
    tell((demo.work / "aasm.log").read_text().rstrip())
    demo.run(["aasm", "policy", "check", POLICY])
    demo.run(["aasm", "policy", "apply", POLICY])
    demo.run(["aasm", "policy", "list"])


def allowed(demo: Demo) -> None:
    heading(2, "The quick start's research agent runs, and every step of it is allowed")
    printed = demo.run([sys.executable, HERE / "quickstart.py"])
    for line in (
        rf"\[AAASM\] Agent registered: {AGENT} \(workspace: ws-\w{{4}}\.\.\.\)",
        rf"\[AAASM\] Policy check: ALLOW event=llm_call agent={AGENT}",
        r"\[AAASM\] Audit event written: id=evt_[0-9a-z]{26} latency=\d+ms",
    ):
        require(re.search(line, printed) is not None, f"a line like {line}", "none")
    require("event=tool_call" in printed, "a governed tool call", "none")
    require("AI Agent Assembly governs AI agents" in printed, "the agent's answer", "none")


def denied_shell(demo: Demo) -> str:
    heading(3, "The model asks for a shell: the policy denies it, and the shell does not run")
    event = stopped(demo, "How full is the disk?", "tool_call", "tool_denied", "allow: false")
    require(not (demo.work / "disk.txt").exists(), "no shell", "a file that the shell wrote")
    return event


def blocked_prompt(demo: Demo) -> None:
    heading(4, "A prompt carries an API key: it does not leave for the model")
    question = f"Why does our key {CREDENTIAL} not work?"
    stopped(demo, question, "llm_call", "sensitive_data", "sk-[a-zA-Z0-9]{48}")


def blocked_result(demo: Demo) -> None:
    heading(5, "A tool's result carries a password: the agent never sees it")
    question = "What does the runbook of the reporting database say?"
    stopped(demo, question, "tool_result", "sensitive_data", "password")


def stopped(demo: Demo, question: str, kind: str, code: str, source: str) -> str:
    """Runs the assistant, which a policy must stop, and shows the line of the policy that did."""
    printed = demo.run([sys.executable, HERE / "assistant.py"], stdin=question, expect=3)
    for secret in (CREDENTIAL, PASSWORD):
        require(secret not in printed, "the secret in no output", "the secret")
    decision = re.search(
        rf"Policy check: DENY event={kind} agent={AGENT}\n.*Audit event written: id=(evt_\w+)", printed
    )
    if decision is None:
        raise Unexpected(f"a denied {kind} was expected, but there was none")
    entry = demo.entry(decision[1])
    reason = entry["reasons"][0]
    line = POLICY.read_text().splitlines()[reason["line"] - 1]
    tell(f"decided by {os.path.relpath(POLICY)}:{reason['line']}\n  {reason['line']} | {line}")
    require(reason["code"] == code, f"the reason {code}", reason["code"])
    require(source in line, f"a policy line with {source}", line)
    return str(entry["id"])


def budget(demo: Demo) -> None:
    heading(6, "A team's budget runs out in mid-run: the call that does not fit is not made")
    demo.run(["aasm", "budget", "set", "--team", "reports", "--window", "daily", "--cost-limit", "0.001"])
    printed = demo.run([sys.executable, HERE / "night_shift.py"], expect=3)
    read = len(re.findall(r"report \d+ is read", printed))
    require(1 <= read < 20, "a few reports to be read", str(read))
    require("[budget_exceeded]" in printed, "the reason budget_exceeded", "another")
    spent = re.search(r"of \$0\.001 a day \$([0-9.]+) are spent", printed)
    require(spent is not None and 0 < float(spent[1]) < 0.001, "less spent than the limit", printed)
    listed = demo.run(["aasm", "budget", "list"])
    require("reports" in listed, "the team's budget", "none")


def approval(demo: Demo, pager: Pager) -> None:
    heading(7, "An order needs a person: it waits, is approved from a second terminal, and goes on")
    demo.run(["aasm", "alert", "webhook", "pager", "--url", pager.url, "--new-secret", "alerts/pager"])
    demo.run(["aasm", "alert", "rule", "set", "people", "--to", "pager", "--event", "approval_needed"])
    script = HERE / "purchase.py"
    print(f"{DIM}$ python {os.path.relpath(script)} &{PLAIN}\n", flush=True)
    agent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=demo.environment,
        cwd=demo.work,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        requests: list[dict[str, Any]] = []
        while not requests:
            require(agent.poll() is None, "a waiting agent", f"exit code {agent.returncode}")
            require(time.monotonic() < deadline, "a request for approval", "none")
            listed = demo.run(["aasm", "approval", "list", "--format", "json"], show=False)
            requests = json.loads(listed)["approvals"]
        message = pager.message()
        require(message["data"]["approval"] == requests[0]["id"], "an alert about the request", str(message))
        tell(f"the pager beeps: {message['data']['title']}")
        short = str(requests[0]["id"])[:8]
        demo.run(["aasm", "approval", "list"])
        shown = demo.run(["aasm", "approval", "show", short])
        require("a standing desk" in shown and "640" in shown, "every argument", shown)
        demo.run(["aasm", "approval", "approve", short, "--reason", "budgeted for this month"])
        printed, _ = agent.communicate(timeout=PATIENCE)
    finally:
        agent.kill()
    tell(printed.rstrip())
    require("ordered: a standing desk for $640" in printed, "the order", "none")


def unaware(demo: Demo) -> None:
    heading(8, "An agent without the SDK: the proxy governs its plain OpenAI client")
    with sidecar(demo) as address:
        through_proxy = {"HTTP_PROXY": f"http://unaware:{PROXY_TOKEN}@{address}", "NO_PROXY": "", "no_proxy": ""}
        before = demo.environment
        demo.environment = before | through_proxy
        try:
            printed = demo.run([sys.executable, HERE / "unaware.py"], stdin=CREDENTIAL)
        finally:
            demo.environment = before
    require("it answers: I have nothing to add." in printed, "the model's answer", "none")
    require(printed.count("refused:") == 2, "two refusals", printed)
    require(CREDENTIAL not in printed, "the secret in no output", "the secret")
    listed = demo.run(["aasm", "audit", "query", "--kind", "decision", "--limit", "6"])
    require("llm_result" in listed, "what the call did cost", "none")


def audit(demo: Demo) -> None:
    heading(9, "What the operator sees")
    printed = demo.run(["aasm", "audit", "query", "--kind", "decision", "--limit", "20"])
    for kind in ("llm_call", "tool_call", "tool_result"):
        require(kind in printed, f"a row of {kind}", "none")


def verify(demo: Demo) -> None:
    heading(10, "The audit log is exported and verified, offline")
    demo.run(["aasm", "audit", "keys", "--out", demo.keys])
    demo.run(["aasm", "audit", "export", "--out", demo.export])
    demo.run(["aasm", "audit", "verify", demo.export, "--keys", demo.keys])
    for file in (path for path in demo.work.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for secret in (CREDENTIAL, PASSWORD):
            require(secret.encode() not in content, f"no secret in {file.name}", "the secret")
    tell("neither the API key nor the password is in the export, or in any other file of this run")


def tamper(demo: Demo, event: str) -> None:
    heading(11, "One byte of the export is changed: the verification fails and names the entry")
    lines = demo.export.read_bytes().splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if event.encode() in line)
    before = lines[number]
    after = before.replace(b'"tool":"execute_shell"', b'"tool":"execute_shelf"')
    require(sum(a != b for a, b in zip(before, after, strict=True)) == 1, "one changed byte", "another")
    lines[number] = after
    tampered = demo.work / "audit-tampered.jsonl"
    tampered.write_bytes(b"".join(lines))
    tell(f"line {number + 1}: the tool `execute_shell` is now `execute_shelf`")
    printed = demo.run(["aasm", "audit", "verify", tampered, "--keys", demo.keys], expect=1)
    require(event in printed, f"the altered entry {event} by name", printed)


# --- the parts that run beside it


@contextmanager
def control_plane(demo: Demo) -> Iterator[subprocess.Popen[str]]:
    """`aasm up` on free ports, with data of its own."""
    command: list[str | Path] = [demo.aasm, "up", "--data", demo.data]
    command += ["--gateway", "127.0.0.1:0", "--api", "127.0.0.1:0", "--allow-destination", "127.0.0.1"]
    with (demo.work / "aasm.log").open("w") as log, running(command, log) as process:
        wait_for(
            lambda: (demo.data / "client.env").exists() and (demo.data / "operator.env").exists()
            and (demo.work / "aasm.log").stat().st_size > 0,
            process,
            "aasm up",
            demo.work / "aasm.log",
        )
        yield process


class Pager:
    """Somebody's pager: a receiver of webhooks."""

    def __init__(self) -> None:
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        pager = self

        class Receiver(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(204)
                self.end_headers()
                pager.messages.put(json.loads(body))

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def message(self) -> dict[str, Any]:
        """The next message."""
        try:
            return self.messages.get(timeout=PATIENCE)
        except queue.Empty:
            raise Unexpected("an alert was expected, but none came") from None


@contextmanager
def sidecar(demo: Demo) -> Iterator[str]:
    """`aa-proxy` on a free port, for one agent that it knows by its token. Yields where it listens."""
    directory = demo.work / "proxy"
    directory.mkdir()
    key = directory / "api-key"
    key.touch(mode=0o600)
    key.write_text(demo.environment["AAA_API_KEY"])
    config = directory / "aa-proxy.toml"
    config.write_text(
        f"""
ca_directory = "ca"

[gateway]
workspace_id = "{demo.environment["AAA_WORKSPACE_ID"]}"
urls = "{demo.environment["AAA_GATEWAY_URL"]}"
ca_file = "{demo.environment["AAA_CA_FILE"]}"
api_key_file = "api-key"

[[listeners]]
address = "127.0.0.1:0"

[[agents]]
name = "unaware"
token_sha256 = "{hashlib.sha256(PROXY_TOKEN.encode()).hexdigest()}"

# The demo's model server stands in for a provider.
[hosts]
allow_internal = ["127.0.0.1"]
dialects = [{{ host = "127.0.0.1", dialect = "openai" }}]
"""
    )
    print(f"{DIM}$ aa-proxy run --config {os.path.relpath(config)}{PLAIN}")
    log = demo.work / "aa-proxy.log"
    with log.open("w") as output, running([demo.proxy, "run", "--config", config], output) as process:
        listening = re.compile(r"listening address=(\S+)")
        wait_for(lambda: listening.search(log.read_text()), process, "aa-proxy", log)
        address = listening.search(log.read_text())
        assert address is not None
        yield address[1]
    require(process.returncode == 0, "a clean end of aa-proxy", f"exit code {process.returncode}")


@contextmanager
def model_server(demo: Demo) -> Iterator[None]:
    """The model server, to which the agents' OpenAI clients are pointed by their environment."""
    log = demo.work / "openai_server.log"
    with log.open("w") as output, running([sys.executable, HERE / "openai_server.py"], output) as process:
        wait_for(lambda: log.read_text().endswith("\n"), process, "the model server", log)
        url = log.read_text().strip()
        demo.environment |= {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": "unused"}
        yield


@contextmanager
def running(command: Sequence[str | Path], output: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(ready: Any, process: subprocess.Popen[str], what: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if process.poll() is not None:
            raise Unexpected(f"{what} ended with exit code {process.returncode}:\n{log.read_text()}")
        if time.monotonic() > deadline:
            raise Unexpected(f"{what} was not ready within {PATIENCE:.0f} s:\n{log.read_text()}")
        time.sleep(0.02)


# --- telling


def heading(number: int, text: str) -> None:
    print(f"{BOLD}{number}. {text}{PLAIN}\n", flush=True)


def tell(text: str) -> None:
    print(masked(f"{text}\n\n").lstrip("\n"), end="", flush=True)


def masked(text: str) -> str:
    """Leaves out the demo's own secrets, so that the transcript can be shown to anybody."""
    text = re.sub(r"aak_[A-Za-z0-9_-]+", "aak_…", text)
    text = re.sub(r"whsec_[A-Za-z0-9+/=]+", "whsec_…", text)
    return text.replace(PROXY_TOKEN, "…").replace(CREDENTIAL, CREDENTIAL[:5] + "…")


def require(holds: bool, expected: str, found: str) -> None:
    if not holds:
        raise Unexpected(f"expected {expected}, found {found}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aasm", type=Path, required=True, help="the program to demonstrate")
    parser.add_argument("--proxy", type=Path, required=True, help="the sidecar proxy to demonstrate")
    parser.add_argument("--work", type=Path, required=True, help="where the demo keeps its files")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell starts its background jobs deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    demo = Demo(aasm=arguments.aasm.resolve(), proxy=arguments.proxy.resolve(), work=arguments.work.resolve())
    shutil.rmtree(demo.work, ignore_errors=True)
    demo.work.mkdir(parents=True)
    # Nothing of the caller's own setup is to reach beyond this machine, or to be in the way here.
    demo.environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "LANGSMITH_TRACING": "false"}
    try:
        with control_plane(demo) as process, model_server(demo):
            start(demo)
            allowed(demo)
            event = denied_shell(demo)
            blocked_prompt(demo)
            blocked_result(demo)
            budget(demo)
            approval(demo, Pager())
            unaware(demo)
            audit(demo)
            verify(demo)
            tamper(demo, event)
        require(process.returncode == 0, "a clean shutdown", f"exit code {process.returncode}")
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (Unexpected, subprocess.TimeoutExpired) as problem:
        print(f"\nThe demo failed: {masked(str(problem))}", file=sys.stderr)
        return 1
    print(f"{BOLD}Everything came out as it should.{PLAIN} The files are in {os.path.relpath(demo.work)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
