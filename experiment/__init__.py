"""One training: the command line of ``train.py`` and what it prints."""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)
