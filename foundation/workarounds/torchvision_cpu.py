"""Make torchvision importable beside a CPU-only build of torch. Import this before torchvision.

The registry's torchvision wheel is built for CUDA. Beside a CPU build of torch its compiled
operators do not load, and ``import torchvision`` (hence torchmetrics, hence lightning) dies with
"operator torchvision::nms does not exist", because torchvision registers fake kernels for two
operators that are then undeclared. Declaring their schemas is enough for data sets and
transforms; calling ``torchvision.ops.nms`` still fails, with torchvision's own explanation.

Where torchvision's operators load, this module changes nothing.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _operators_load() -> bool:
    """Try to load torchvision's compiled operators, as its own import does."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # torchvision is not installed: its own ImportError says so
    for library in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(library))
            return True
        except OSError:
            continue
    return False


def declare_missing_operators() -> torch.library.Library | None:
    """Declare torchvision's operators if its compiled ones do not load; None if they do."""
    if hasattr(torch.ops.torchvision, "nms") or _operators_load():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


# The declarations live as long as this object does.
library = declare_missing_operators()
