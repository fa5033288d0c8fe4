"""Imports packages without what they import and the exporter does not use.

pyroute2 and prometheus-client import everything that they have, for the convenience of `from package import name`: 128
modules with unittest and multiprocessing, and three HTTP servers. That is 12 MiB on every node, for two message classes
and three metric classes. `hashlib` and `asyncio` import OpenSSL where it is installed: 5.7 MiB on a node that asks no
API server and serves no TLS.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def skip_init(package: str, **names: object) -> None:
    """Makes modules of `package` importable without running its `__init__`, unless that was imported before.

    It has these `names`. The first use of another one that only the `__init__` has runs it: the package behaves as
    always, for whoever needs it.
    """
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names, __getattr__=_RunsInit(module, spec))
    sys.modules[package] = module


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """What is imported in this block finds `module` not installed, unless that was imported before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        del sys.modules[module]


class _RunsInit:
    """The `__getattr__` of a package whose `__init__` has not run."""

    def __init__(self, module: ModuleType, spec: ModuleSpec) -> None:
        self._module = module
        self._spec = spec

    def __call__(self, name: str) -> Any:
        # Python itself asks for names such as __wrapped__, and for modules of the package before it imports them.
        special = name.startswith("__") and name != "__all__"
        if special or importlib.util.find_spec(f"{self._spec.name}.{name}") or self._spec.loader is None:
            raise AttributeError(f"module {self._spec.name!r} has no attribute {name!r}", name=name, obj=self._module)
        vars(self._module).pop("__getattr__", None)
        self._spec.loader.exec_module(self._module)
        return getattr(self._module, name)
