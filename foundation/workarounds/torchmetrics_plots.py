"""Have torchmetrics import matplotlib when it plots, not when it is imported.

Where matplotlib is installed, ``import torchmetrics`` (hence ``import lightning``) imports pyplot,
a tenth of its time, though few metrics are ever plotted
(``torchmetrics/utilities/plot.py``). Importing this module first mends it; ``Metric.plot`` works
as before.
"""

import sys
from importlib import import_module
from typing import Any

from lightning_utilities.core.imports import RequirementCache


class _Deferred:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


def _defer() -> None:
    if "torchmetrics" in sys.modules:
        return
    known = RequirementCache.__bool__

    def without_matplotlib(self: RequirementCache) -> bool:
        return self.requirement != "matplotlib" and known(self)

    RequirementCache.__bool__ = without_matplotlib  # type: ignore[method-assign]
    try:
        import torchmetrics.utilities.plot as plots
    finally:
        RequirementCache.__bool__ = known  # type: ignore[method-assign]
    for name, module in (("plt", "matplotlib.pyplot"), ("matplotlib", "matplotlib")):
        if not hasattr(plots, name):
            setattr(plots, name, _Deferred(module))


_defer()
