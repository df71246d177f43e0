"""The speed of training, in images per second."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class Throughput(Callback):
    """Log ``train/images_per_second`` per epoch, over all processes, and show it while training.

    The time is that of the training batches, from the epoch's first to its last: validation,
    checkpoints and figures do not count. On a GPU, steps are queued and run later; the epoch's end
    waits for them.

    Args:
        every_n_steps: how often the progress bar gets a new figure.

    Attributes:
        epochs: training time of each epoch so far.
        images: training images of all epochs so far, over all processes.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        self.every_n_steps = every_n_steps
        self.epochs: list[float] = []
        self.images = 0
        self._start = 0.0
        self._epoch_images = 0

    @property
    def seconds(self) -> float:
        """Training time of all epochs so far."""
        return sum(self.epochs)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "images": self.images}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = [float(seconds) for seconds in state_dict["epochs"]]
        self.images = int(state_dict["images"])

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._epoch_images = 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._epoch_images += len(batch[0]) * trainer.world_size
        if trainer.is_last_batch:
            trainer.strategy.barrier()
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            seconds = time.perf_counter() - self._start
            self.epochs.append(seconds)
            self.images += self._epoch_images
            speed = self._epoch_images / seconds
            pl_module.log(
                "train/images_per_second", speed, on_step=False, on_epoch=True, sync_dist=True
            )
        elif (batch_idx + 1) % self.every_n_steps == 0:
            so_far = self._epoch_images / (time.perf_counter() - self._start)
            pl_module.log("images/s", so_far, prog_bar=True, logger=False)
