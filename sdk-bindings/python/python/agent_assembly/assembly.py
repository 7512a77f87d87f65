"""The entry point of the package."""

from __future__ import annotations

import atexit
import functools
import inspect
import math
import os
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import util
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from . import log, tool as tools
from ._native import Action, Client
from .context import active_run, follow_threads
from .errors import ConfigurationError, GovernedAction
from .run import AgentRun, AgentSpec, RegisteredAgent, current_run, set_default_run

__all__ = ["AgentAssembly"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_VARIABLES = (
    "AAA_WORKSPACE_ID",
    "AAA_API_KEY",
    "AAA_GATEWAY_URL",
    "AAA_CA_FILE",
    "AAA_ON_UNREACHABLE",
)
#: Requests for approval expire by themselves.
_AS_LONG_AS_IT_TAKES = 31_536_000.0
#: The gateway takes no more.
_MAX_PURPOSE = 2_000
_assemblies: weakref.WeakSet[AgentAssembly] = weakref.WeakSet()
#: Handles a fork copied into this process: their destructors would wait for threads that are not here.
_inherited: list[object] = []


class AgentAssembly:
    """Governs the agents of this process.

    Settings come from the arguments, then from the environment: `AAA_WORKSPACE_ID`, `AAA_API_KEY`,
    `AAA_GATEWAY_URL` (default `https://127.0.0.1:7443`), `AAA_CA_FILE`, `AAA_ON_UNREACHABLE`.

    Args:
        workspace_id: The workspace the agents belong to, `ws-…`.
        api_key: An API key of that workspace.
        gateway_url: Where the gateway listens; for several, such as the nodes of a cluster, their addresses
            separated by commas or spaces. Agents use one of them and go on at another when it fails.
        ca_file: PEM certificates to trust instead of the system's, for every gateway.
        on_unreachable: What happens while no gateway answers. `"deny"` (the default) stops the agent;
            `"allow"` lets it go on, keeps a record in memory and delivers that later, marked.
        request_timeout: Seconds a call waits for its decision, retries included (default 5). One of several
            gateways that owes an answer for two fifths of this, at least a second, is left for the next.
        connect_timeout: Seconds one attempt to connect may take (default 3).
        wait_for_approval: Whether a call that needs a person's approval waits until the request is decided or
            expires (the default), for how many seconds at most, or not at all: then it raises
            `ApprovalRequired`. A waiting call holds up its own thread or task only.
        default_agent: The name of an agent that code outside every `@agent` belongs to. Without it, such
            code is not governed.
        instrument: Whether LangChain and the OpenAI client are governed. When false, only `@tool` is.

    Raises:
        ConfigurationError: A setting is missing or malformed. No connection is made yet; agents register
            when they first run.
    """

    def __init__(
        self,
        *,
        workspace_id: str | None = None,
        api_key: str | None = None,
        gateway_url: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        on_unreachable: Literal["deny", "allow"] | None = None,
        request_timeout: float | None = None,
        connect_timeout: float | None = None,
        wait_for_approval: bool | float = True,
        default_agent: str | None = None,
        instrument: bool = True,
    ) -> None:
        arguments = (
            workspace_id,
            api_key,
            gateway_url,
            None if ca_file is None else os.fspath(ca_file),
            on_unreachable,
        )
        settings = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        settings |= {
            name: value
            for name, value in zip(_VARIABLES, arguments, strict=True)
            if value is not None
        }
        self._settings = settings
        self._timeouts = (request_timeout, connect_timeout)
        if not isinstance(wait_for_approval, bool) and not 0 <= wait_for_approval < math.inf:
            raise ConfigurationError("wait_for_approval is a number of seconds, True or False")
        self.waits_for_approval = _AS_LONG_AS_IT_TAKES if wait_for_approval is True else float(wait_for_approval)
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._agents: dict[str, list[RegisteredAgent]] = {}
        self._workspace_id = self.client().workspace_id
        log.show_by_default()
        follow_threads()
        if instrument:
            from .instrument import install

            install()
        if default_agent is not None:
            self._serve_by_default(default_agent)
        _assemblies.add(self)

    def __repr__(self) -> str:
        return f"AgentAssembly(workspace_id={self._workspace_id!r})"

    @property
    def workspace_id(self) -> str:
        """The workspace the agents belong to."""
        return self._workspace_id

    def client(self) -> Client:
        """The connection to the gateways."""
        with self._lock:
            if self._client is None:
                try:
                    self._client = Client(self._settings, *self._timeouts)
                except ValueError as error:
                    raise ConfigurationError(str(error)) from None
            return self._client

    def agent(
        self,
        name: str,
        *,
        id: str | None = None,
        org: str = "",
        team: str = "",
        governance_level: Literal["L0", "L1", "L2", "L3"] = "L0",
        labels: Mapping[str, str] | None = None,
    ) -> Callable[[F], F]:
        """Makes a function, coroutine function, generator or async generator the agent `name`.

        Everything it calls is governed as that agent's, through threads and tasks too. It registers with
        the gateway when it is first called. Called inside another agent, it is first asked about as that
        agent's `agent_spawn`.

        Args:
            name: 1 to 128 characters; unique in the workspace when no id is given.
            id: The agent's UUID; by default derived from the workspace and the name.
            org: The organisation that `org:` scopes match.
            team: The team that `team:` scopes match.
            governance_level: How closely it is governed.
            labels: Free labels that policies can read.
        """
        if not isinstance(name, str) or not name:
            raise TypeError('an agent needs a name: @aaa.agent(name="my-agent")')
        spec = AgentSpec(name, id, org, team, governance_level, dict(labels or {}))
        agent = self._known(spec)

        def decorate(function: F) -> F:
            if inspect.isasyncgenfunction(function):
                return cast(F, _async_generator(agent, function))
            if inspect.isgeneratorfunction(function):
                return cast(F, _generator(agent, function))
            if inspect.iscoroutinefunction(function):
                return cast(F, _coroutine(agent, function))
            return cast(F, _function(agent, function))

        return decorate

    @contextmanager
    def run(self, name: str) -> Iterator[AgentRun]:
        """Runs a block as the agent `name`, as `agent` does for a function."""
        known = self._agents.get(name)
        agent = known[0] if known else self._known(AgentSpec(name))
        with _begin(agent).active() as run:
            yield run

    @contextmanager
    def purpose(self, text: str) -> Iterator[None]:
        """Says to those who approve what the calls of a block are for.

        They see it beside the exact call, as the program's word: it decides nothing and no policy reads it.
        Outside every agent it does nothing.

        Args:
            text: At most 2,000 characters.

        Raises:
            ValueError: The text is longer.
        """
        if len(text) > _MAX_PURPOSE:
            raise ValueError(f"a purpose has at most {_MAX_PURPOSE} characters, this one {len(text)}")
        run = current_run()
        if run is None:
            yield
            return
        with run.for_purpose(text).active():
            yield

    @overload
    def tool(self, function: F, /, *, name: str | None = None) -> F: ...
    @overload
    def tool(self, function: None = None, /, *, name: str | None = None) -> Callable[[F], F]: ...
    def tool(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None
    ) -> Any:
        """Makes a function a governed tool: its call is asked about with its arguments, its result
        before the agent sees it. Outside every agent it is an ordinary function.

        Args:
            function: A function, coroutine function or generator.
            name: The tool's name in policies; by default the function's.
        """
        if function is not None:
            return tools.governed(function, name)
        return lambda function: tools.governed(function, name)

    def flush(self, patience: float = 5.0) -> bool:
        """Waits until all outcomes are delivered; False when that takes longer than `patience` seconds.

        Called when the program ends.
        """
        until = time.monotonic() + patience
        natives = [agent.registered for agent in self._all_agents()]
        return all(
            [
                native.flush(max(0.001, until - time.monotonic()))
                for native in natives
                if native is not None
            ]
        )

    def _known(self, spec: AgentSpec) -> RegisteredAgent:
        with self._lock:
            known = self._agents.setdefault(spec.name, [])
            agent = next((agent for agent in known if agent.spec == spec), None)
            if agent is None:
                agent = RegisteredAgent(self, spec)
                known.append(agent)
            return agent

    def _all_agents(self) -> list[RegisteredAgent]:
        return [agent for known in list(self._agents.values()) for agent in known]

    def _serve_by_default(self, name: str) -> None:
        agent = self._known(AgentSpec(name))
        runs: list[AgentRun] = []

        def provide() -> AgentRun:
            if not runs:
                runs.append(AgentRun(agent, agent.native()))
            return runs[0]

        set_default_run(provide)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        _inherited.append(self._client)
        self._client = None
        _inherited.extend(agent.forget() for agent in self._all_agents())


def _begin(agent: RegisteredAgent) -> AgentRun:
    native = agent.native()
    outer = active_run.get()
    if outer is not None and outer.agent is not agent:
        outer.check(Action.agent_spawn(agent.name), GovernedAction("agent_spawn", agent.name))
    return AgentRun(agent, native)


async def _begin_async(agent: RegisteredAgent) -> AgentRun:
    native = await agent.native_async()
    outer = active_run.get()
    if outer is not None and outer.agent is not agent:
        about = GovernedAction("agent_spawn", agent.name)
        await outer.check_async(Action.agent_spawn(agent.name), about)
    return AgentRun(agent, native)


def _function(agent: RegisteredAgent, function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def governed(*args: P.args, **kwargs: P.kwargs) -> R:
        with _begin(agent).active():
            return function(*args, **kwargs)

    return governed


def _coroutine(agent: RegisteredAgent, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def governed(*args: Any, **kwargs: Any) -> Any:
        run = await _begin_async(agent)
        with run.active():
            return await function(*args, **kwargs)

    return governed


def _generator(agent: RegisteredAgent, function: Callable[..., Any]) -> Callable[..., Any]:
    # Each step runs within the agent, and what happens between two steps does not.
    @functools.wraps(function)
    def governed(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        run = _begin(agent)
        with run.active():
            inner: Generator[Any, Any, Any] = function(*args, **kwargs)
        step: Callable[[], Any] = functools.partial(next, inner)
        while True:
            try:
                with run.active():
                    item = step()
            except StopIteration as stop:
                return stop.value
            try:
                sent = yield item
            except GeneratorExit:
                with run.active():
                    inner.close()
                raise
            except BaseException as error:
                step = functools.partial(inner.throw, error)
            else:
                step = functools.partial(inner.send, sent)

    return governed


def _async_generator(agent: RegisteredAgent, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def governed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        run = await _begin_async(agent)
        with run.active():
            inner: AsyncGenerator[Any, Any] = function(*args, **kwargs)
        step: Callable[[], Any] = inner.__anext__
        while True:
            try:
                with run.active():
                    item = await step()
            except StopAsyncIteration:
                return
            try:
                sent = yield item
            except GeneratorExit:
                with run.active():
                    await inner.aclose()
                raise
            except BaseException as error:
                step = functools.partial(inner.athrow, error)
            else:
                step = functools.partial(inner.asend, sent)

    return governed


def _forked() -> None:
    for assembly in list(_assemblies):
        assembly._after_fork()


def _forked_by_multiprocessing(_: object) -> None:
    # Its processes end without the handlers of `atexit`. Not earlier: what is registered at the fork itself
    # is forgotten when such a process begins.
    util.Finalize(None, _flush_all, exitpriority=10)


def _flush_all() -> None:
    for assembly in list(_assemblies):
        try:
            if not assembly.flush(2.0):
                log.logger.warning("[AAASM] Some outcomes were not delivered before the program ended")
        except Exception as error:
            log.logger.warning("[AAASM] Outcomes were not delivered: %s", error)


os.register_at_fork(after_in_child=_forked)
util.register_after_fork(_flush_all, _forked_by_multiprocessing)
atexit.register(_flush_all)
