"""The signature of this user, on this machine, under what a run writes into its checkpoints.

It tells one's own configuration from somebody else's; it is no secret kept from the user.
"""

import hashlib
import hmac
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

_BYTES = 32
_PURPOSE = b"configuration in a checkpoint\0"


def sign(text: str) -> str | None:
    """HMAC-SHA256 with this user's key, 64 hex digits; None where no key can be kept.

    The key is made on first use.
    """
    key = _key() or _make_key()
    return _signature(key, text) if key else None


def is_own(text: str, signature: Any) -> bool:
    """True for a text that this user signed, on this machine."""
    key = _key()
    if key is None or not isinstance(signature, str) or not signature.isascii():
        return False
    return hmac.compare_digest(_signature(key, text), signature)


def _signature(key: bytes, text: str) -> str:
    content = _PURPOSE + text.encode(errors="surrogatepass")
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _key_file() -> Path:
    """Of the platform's folder for what programs remember.

    Raises:
        RuntimeError: the user has no home.
    """
    if given := os.environ.get("XDG_STATE_HOME"):
        folder = Path(given)
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path.home() / ".local" / "state"
    return folder / "cnn-techniques" / "key"


def _key() -> bytes | None:
    with suppress(OSError, RuntimeError):
        key = _key_file().read_bytes()
        return key if len(key) == _BYTES else None
    return None


def _make_key() -> bytes | None:
    """Make the key, unless another process is first: then its key is the one."""
    with suppress(OSError, RuntimeError):
        file = _key_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, partial = tempfile.mkstemp(dir=file.parent)  # for the user alone, mode 0600
        try:
            with os.fdopen(descriptor, "wb") as content:
                content.write(os.urandom(_BYTES))
                content.flush()
                os.fsync(content.fileno())
            with suppress(FileExistsError):
                os.link(partial, file)  # whole, or not at all
        finally:
            os.unlink(partial)
    return _key()
