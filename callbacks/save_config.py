"""The configuration of a run, in its folder and in its checkpoints."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from foundation.run_folder import CONFIG_KEY, SIGNATURE_KEY
from foundation.signature import sign


class SaveConfig(SaveConfigCallback):
    """Save the configuration of a ``fit`` in its run's folder and in every checkpoint.

    So a run can be repeated, and a checkpoint that was moved still knows what it is. There it is
    signed: the user's own configuration counts as a whole, somebody else's does not.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.config = self.config.clone()
        self.config.ckpt_path = None  # repeating a run that was resumed starts at its start
        self.text = self.parser.dump(self.config, skip_none=False)
        self.overwrite = True  # a resumed run says what it was resumed with
        if stage == "fit" and trainer.loggers:
            super().setup(trainer, pl_module, stage)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CONFIG_KEY] = self.text
        if (signature := sign(self.text)) is not None:
            checkpoint[SIGNATURE_KEY] = signature

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell the checkpoint callbacks where the run's folder is now; it may have been moved."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder is None:
            return

        def here(path: str) -> str:
            name = Path(path).name
            # The callbacks remove files that are no longer among the best: none but these.
            return str(Path(folder, name)) if name not in ("", "..") else ""

        for state in checkpoint.get("callbacks", {}).values():
            if "best_model_path" in state:
                state["dirpath"] = folder
                for name in ("best_model_path", "last_model_path", "kth_best_model_path"):
                    state[name] = here(state[name])
                best = state["best_k_models"]
                state["best_k_models"] = {
                    here(path): score for path, score in best.items() if here(path)
                }
