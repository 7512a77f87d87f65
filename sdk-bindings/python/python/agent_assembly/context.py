"""Which run the code being executed belongs to, through threads as well as tasks.

Tasks inherit context by themselves. Threads and pools do not, so they are taught to: a thread belongs to
the run that started it, a pool's work to the run that submitted it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import AgentRun

__all__ = ["active_run", "follow_threads"]

active_run: ContextVar[AgentRun | None] = ContextVar("agent_assembly_run", default=None)

_installed = False


def _call_within(run: AgentRun | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    token = active_run.set(run)
    try:
        return function(*args, **kwargs)
    finally:
        active_run.reset(token)


def follow_threads() -> None:
    """Makes threads and thread pools carry the run. Done once per process."""
    global _installed
    if _installed:
        return
    _installed = True
    _follow_thread_start()
    _follow_executor()
    for method in ("apply_async", "_map_async", "imap", "imap_unordered"):
        _follow_pool(method)


def _follow_thread_start() -> None:
    start = threading.Thread.start

    @functools.wraps(start)
    def started(self: threading.Thread) -> None:
        run = active_run.get()
        if run is not None:
            self.run = functools.partial(_call_within, run, self.run)  # type: ignore[method-assign]
        start(self)

    threading.Thread.start = started  # type: ignore[method-assign]


def _follow_executor() -> None:
    submit: Callable[..., Future[Any]] = ThreadPoolExecutor.submit

    # Wrapped without a run as well: the worker may have been started by one.
    @functools.wraps(submit)
    def submitted(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        if type(self).__module__ == "concurrent.futures.interpreter":
            # Another interpreter shares no run with this one.
            return submit(self, fn, *args, **kwargs)
        return submit(self, _call_within, active_run.get(), fn, *args, **kwargs)

    ThreadPoolExecutor.submit = submitted  # type: ignore[method-assign,assignment]


def _follow_pool(method: str) -> None:
    original = getattr(ThreadPool, method, None)
    if original is None:
        return

    @functools.wraps(original)
    def dispatched(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        within = functools.partial(_call_within, active_run.get(), func)
        return original(self, within, *args, **kwargs)

    setattr(ThreadPool, method, dispatched)
