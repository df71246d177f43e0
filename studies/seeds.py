"""Seeds that follow from others."""

import hashlib
from typing import Any


def derived_seed(*parts: Any) -> int:
    """A seed in 0…2³²-1 that depends on every part, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest())
