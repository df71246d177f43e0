"""Write a file whole or not at all."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes | memoryview) -> None:
    """Put a file in place at once: who reads it meanwhile sees it as it was before.

    Raises:
        OSError: with the file's name; what was there before is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # workers may write at once
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # or a crash may leave an empty file under the final name
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which
        raise
    finally:
        partial.unlink(missing_ok=True)
