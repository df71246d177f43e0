"""Stop where the loss is no longer a number."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from errors import UserError


class NonFiniteLossError(UserError):
    """The training loss became NaN or infinite."""


class FiniteLoss(Callback):
    """Stop training at the first loss that is NaN or infinite.

    No checkpoint is written from then on, so that the last good one stays. On a CPU every step is
    looked at; on a GPU, where a look waits for the device, every ``every_n_steps`` and the last one
    of an epoch.

    Args:
        every_n_steps: how often to look on a GPU.

    Raises:
        NonFiniteLossError: names the step, the learning rate and the checkpoint that was kept.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        look = (
            pl_module.device.type == "cpu"
            or trainer.is_last_batch
            or trainer.global_step % self.every_n_steps == 0
        )
        if not look or torch.isfinite(outputs["loss"]):
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rates = ", ".join(f"{rate:g}" for rate in sorted({group["lr"] for group in groups}))
        kept = getattr(trainer.checkpoint_callback, "last_model_path", "")
        raise NonFiniteLossError(
            f"the loss is {outputs['loss'].item()} at step {trainer.global_step} (epoch "
            f"{trainer.current_epoch}, learning rate {rates}); "
            + (f"the last good checkpoint is {kept}; " if kept else "no checkpoint was saved yet; ")
            + "try a lower learning rate, a warm-up, or --trainer.gradient_clip_val 1"
        )
