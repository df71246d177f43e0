"""The configuration of a run, in its folder and in its checkpoints."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from foundation.run_folder import CONFIG_KEY, SIGNATURE_KEY
from foundation.signature import sign
from foundation.whole_file import write


class SaveConfig(SaveConfigCallback):
    """Save the configuration of a ``fit`` in its run's folder and in every checkpoint.

    So a run can be repeated, and a checkpoint that was moved still knows what it is. There it is
    signed: the user's own configuration counts as a whole, somebody else's does not. A run that is
    resumed keeps its old one until it does go on.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.config = self.config.clone()
        self.config.ckpt_path = None  # repeating a run that was resumed starts at its start
        self.text = self.parser.dump(self.config, skip_none=False)
        if stage == "fit":
            self.signature = sign(self.text)
            self._save(trainer, again=False)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path:
            self._save(trainer, again=True)

    def _save(self, trainer: Trainer, again: bool) -> None:
        if not trainer.loggers:
            return
        folder = trainer.log_dir  # which every process has to ask for
        assert folder is not None
        path = Path(folder, self.config_filename)
        if trainer.is_global_zero and (again or not path.exists()):
            write(path, self.text)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CONFIG_KEY] = self.text
        if self.signature is not None:
            checkpoint[SIGNATURE_KEY] = self.signature
