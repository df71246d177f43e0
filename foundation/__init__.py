"""The ground of every part: errors, files written whole, the parser, run folders.

Importing it makes torchvision importable beside a CPU-only torch.
"""

import foundation.workarounds.torchvision_cpu  # noqa: F401  (before anything imports torchvision)
