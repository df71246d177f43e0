"""Full and read-only disks, in a line."""

import errno
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_FULL = 1 << 20  # bytes; where fewer are free, that is the disk that is full


def disk_reason(error: OSError, *places: Path) -> str | None:
    """The words for an error of the file system; None where it is of anything else.

    Args:
        error: that may not say which file it is about, as one in the middle of writing does not.
        places: folders that were written to, beside the current one and that for temporary files.
    """
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno not in _OF_DISKS:
        return None
    others = [Path.cwd()]
    with suppress(OSError):  # there is no usable one
        others.append(Path(tempfile.gettempdir()))
    full = [str(place) for place in (*places, *others) if place.exists() and _is_full(place)]
    return f"{', '.join(full) or 'a disk'}: {error.strerror}"


def is_full(error: OSError) -> bool:
    """Tell whether it is because a disk is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_full(place: Path) -> bool:
    return shutil.disk_usage(place).free < _FULL
