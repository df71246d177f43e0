"""The ground of every part: errors, files written whole, the parser, run folders.

Importing it makes torchvision importable beside a CPU-only torch.
"""

import os

# The store of a run's processes prints a stack trace where one of them has gone. Read on import.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import foundation.workarounds.torchvision_cpu  # noqa: F401  (before anything imports torchvision)
