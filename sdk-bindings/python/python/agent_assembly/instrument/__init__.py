"""Governs libraries where they stand: patched when they are loaded, or at once when they were before.

A library whose shape is not recognised is reported once, loudly, and no agent of the process makes any
call from then on: what cannot be governed does not run.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from .. import log
from ..run import unusable_libraries
from . import langchain, openai

__all__ = ["install"]

Patch = Callable[[ModuleType], None]

#: What is done to which module. A name that ends with a dot stands for every module below it.
_PATCHES: dict[str, Patch] = {**langchain.PATCHES, **openai.PATCHES}
_installed = False


def install() -> None:
    """Governs the known libraries. Done once per process."""
    global _installed
    if _installed:
        return
    _installed = True
    for name, module in list(sys.modules.items()):
        patch = _patch_of(name)
        if patch is not None and module is not None:
            _apply(patch, module)
    sys.meta_path.insert(0, _Finder())


def _patch_of(name: str) -> Patch | None:
    exact = _PATCHES.get(name)
    if exact is not None:
        return exact
    below = (patch for prefix, patch in _PATCHES.items() if prefix[-1] == "." and name.startswith(prefix))
    return next(below, None)


def _apply(patch: Patch, module: ModuleType) -> None:
    try:
        patch(module)
    except Exception as error:
        problem = f"this version of {module.__name__} is not known to agent-assembly ({error})"
        unusable_libraries[module.__name__] = problem
        log.logger.error(
            "[AAASM] %s; agents of this process will make no calls. Install a version that is known, "
            "or leave it ungoverned with AgentAssembly(instrument=False)",
            problem,
        )


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the other finders find a module, and patches it once it was executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        patch = _patch_of(fullname)
        if patch is None:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, patch)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, patch: Patch) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever looks for data or source beside the module asks the loader that found it.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _apply(self._patch, module)
