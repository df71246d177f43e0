"""Checkpoints that are whole or not there."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from foundation.checkpoint_file import WEIGHTS_DIGEST_KEY, weights_digest
from foundation.whole_file import write


class WholeCheckpointIO(TorchCheckpointIO):
    """Write each checkpoint beside its target and rename it when it is on the disk.

    It holds a checksum of its weights, which reading it compares.

    Lightning's own writes to the system's folder for temporary files first: where that is another
    file system, what it then does to the target is a copy, which a kill leaves unfinished.

    Raises:
        OSError: the disk is full, or the folder cannot be written to; the file that was there
            before is as it was.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        digest = weights_digest(checkpoint["state_dict"])
        content = io.BytesIO()
        torch.save({**checkpoint, WEIGHTS_DIGEST_KEY: digest}, content)
        write(Path(path), content.getbuffer())
