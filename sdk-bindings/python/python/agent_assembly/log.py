"""The lines people see while a governed agent runs."""

from __future__ import annotations

import logging
import sys

__all__ = ["logger", "show_by_default"]

logger = logging.getLogger("agent_assembly")


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever `sys.stderr` is at the time, bare lines."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        # A program that configures logging later takes over.
        if logging.getLogger().handlers:
            return
        self.stream = sys.stderr
        super().emit(record)


def show_by_default() -> None:
    """Shows INFO on standard error, unless the program configured logging itself."""
    if logger.handlers or logger.level != logging.NOTSET or logging.getLogger().handlers:
        return
    logger.addHandler(_StandardError())
    logger.setLevel(logging.INFO)


def registered(agent: str, workspace: str) -> None:
    """Tells that an agent is known to the gateway."""
    shown = workspace[:7] + "..." if len(workspace) > 7 else workspace
    logger.info("[AAASM] Agent registered: %s (workspace: %s)", agent, shown)


def decided(verdict: str, event: str, agent: str, event_id: str | None, seconds: float) -> None:
    """Tells of a decision and its audit entry; the latency is what the caller waited, rounded up."""
    allowed = verdict == "allow"
    level = logging.INFO if allowed else logging.WARNING
    if not logger.isEnabledFor(level):
        return
    logger.log(
        level, "[AAASM] Policy check: %s event=%s agent=%s", verdict.upper(), event, agent
    )
    if event_id is None:
        logger.warning("[AAASM] No gateway reachable: %s went on ungoverned by its owner's choice", event)
        return
    milliseconds = max(1, -int(-seconds * 1000 // 1))
    logger.log(level, "[AAASM] Audit event written: id=%s latency=%dms", event_id, milliseconds)


def awaiting(event: str, agent: str, approval: str) -> None:
    """Tells that a call waits for a person, and how that person answers."""
    logger.warning(
        "[AAASM] Waiting for approval: event=%s agent=%s; aasm approval approve %s", event, agent, approval
    )
