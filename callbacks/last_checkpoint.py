"""The checkpoint that a run goes on from."""

from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Write ``last.ckpt`` after every epoch, better or not, so that a run can go on from there."""

    def __init__(self, dirpath: str | None = None) -> None:
        super().__init__(dirpath, filename="last", enable_version_counter=False)
