"""Stop where the loss is no longer a number."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from callbacks.last_checkpoint import last_checkpoint
from foundation.errors import UserError


class NonFiniteLossError(UserError):
    """The training loss became NaN or infinite."""


class FiniteLoss(Callback):
    """Stop training at the first loss that is NaN or infinite.

    No checkpoint is written from then on, so that the last good one stays. A single process on a
    CPU looks at every step; a GPU and several processes, where a look makes them wait, at every
    ``every_n_steps`` and at the last one of an epoch.

    Args:
        every_n_steps: how often to look where it costs time.

    Raises:
        NonFiniteLossError: names the step, the learning rate and the checkpoint that was kept.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        alone_on_cpu = pl_module.device.type == "cpu" and trainer.world_size == 1
        often_enough = trainer.global_step % self.every_n_steps == 0
        if not (alone_on_cpu or often_enough or trainer.is_last_batch):
            return
        bad = not bool(torch.isfinite(outputs["loss"]))
        # Processes stop together, or the others would wait for this one's gradients.
        if trainer.strategy.reduce_boolean_decision(bad, all=False):
            self._stop(trainer, "the loss", outputs["loss"])

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch's last step may break the weights after its own loss was good."""
        loss = trainer.callback_metrics.get("val/loss")
        training = trainer.state.fn == "fit" and not trainer.sanity_checking
        if training and loss is not None and not torch.isfinite(loss):
            self._stop(trainer, "val/loss", loss)

    def _stop(self, trainer: Trainer, name: str, loss: Tensor) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rates = ", ".join(f"{rate:g}" for rate in sorted({group["lr"] for group in groups}))
        kept = last_checkpoint(trainer)
        raise NonFiniteLossError(
            f"{name} is {loss.item()} at step {trainer.global_step} (epoch "
            f"{trainer.current_epoch}, learning rate {rates}); "
            + (f"the last good checkpoint is {kept}; " if kept else "no checkpoint was saved yet; ")
            + "try a lower learning rate, a warm-up, or --trainer.gradient_clip_val 1"
        )
