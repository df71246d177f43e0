"""The classes that a file of somebody else may name."""

import inspect
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from foundation.workarounds.class_paths import RefusedClassError

PACKAGES = (
    "lightning_modules",
    "datamodules",
    "callbacks",
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "kornia.augmentation",
    "lightning.pytorch.cli.ReduceLROnPlateau",  # torch's own, with the metric it watches
)
# Of other packages only classes are wanted: a function would be called, e.g. one that writes files.
_FUNCTIONS = ("torchvision.models",)
# Not to be had through the current folder either, where that is the checkout.
_INTERNAL = (
    *("benchmarks", "compare", "diagnosis", "docs", "experiment", "foundation"),
    *("search", "studies", "tests", "train"),
)


class AllowedClasses:
    """Lets classes pass that are this project's, of well-known packages, or the user's own.

    A name counts for what it leads to: ``torch.nn.modules.module.functools.partial`` is not one
    of ``torch.nn``.

    Args:
        trusted: further packages, whose functions pass too.
        named: single classes that the user typed.

    Attributes:
        refused: the first name that did not pass; None for none.
    """

    def __init__(self, trusted: Iterable[str] = (), named: Iterable[str] = ()) -> None:
        self.trusted = tuple(trusted)
        self.named = frozenset(named)
        self.refused: str | None = None

    def before(self, name: str) -> None:
        """Refuse a dotted name by its beginning, before anything is imported."""
        if not _is_dotted(name) or name in self.named:
            return
        if not _within(name, (*PACKAGES, *self.trusted)) and not _is_here(name):
            self._refuse(name)

    def after(self, name: str, found: Any) -> None:
        """Refuse what is defined elsewhere, and what is no class."""
        home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
        if name in self.named or _within(home, self.trusted):
            return
        if inspect.isclass(found):
            allowed = _within(home, PACKAGES) or _is_here(home)
        else:
            allowed = inspect.isfunction(found) and _within(home, _FUNCTIONS)
        if not allowed:
            self._refuse(name)

    def _refuse(self, name: str) -> None:
        self.refused = self.refused or name
        raise RefusedClassError(f"{name} is not allowed here")


def _is_dotted(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)+", name) is not None


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _is_here(name: str) -> bool:
    """True for a module that a file in the current folder brings."""
    top = name.partition(".")[0]
    if top in _INTERNAL:
        return False
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    here = Path.cwd()
    files = [here / f"{top}.py", here / top / "__init__.py"]
    return Path(spec.origin).resolve() in [file.resolve() for file in files]
