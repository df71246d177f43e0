"""Seeds that are made of others."""

import hashlib
import random
from typing import Any

import numpy
import torch


def derived_seed(*parts: Any) -> int:
    """A seed in 0…2³²-1 that depends on every part, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest())


def seed_all(seed: int) -> None:
    """Seed the generators of PyTorch (of every device), NumPy and Python."""
    torch.manual_seed(seed)
    numpy.random.seed(seed)
    random.seed(seed)
