"""The base of every model here: loss, metrics, preprocessing, initialisation, optimisation."""

import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

from errors import UserError
from lightning_modules.initialisers import Initialiser
from lightning_modules.preprocessing import Preprocessor
from lightning_modules.schedules import with_run_length

Batch = tuple[Tensor, Tensor]
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict)


class ImageClassifier(LightningModule):
    """Classify images. A network is a subclass that builds layers and a ``forward``.

    ``forward`` takes uint8 ``[N, C, H, W]`` in 0…255 or float in 0…1, calls :meth:`preprocess`
    first, and returns logits, float ``[N, num_classes]``.

    Args:
        num_classes: number of classes; labels are 0…num_classes-1.
        image_shape: (channels, height, width) of the images, in pixels.
        optimizer: any class of ``torch.optim``, called with the parameters.
        lr_scheduler: any class of ``torch.optim.lr_scheduler``, called with the optimizer, or None
            for a constant rate. A length of -1 (``T_max``, ``total_iters``, ``total_steps``; for
            OneCycleLR also none at all) stands for the whole run, in the unit of
            ``lr_scheduler_interval``.
        lr_scheduler_interval: step the scheduler after every optimizer step or every epoch.
        lr_scheduler_monitor: metric that ReduceLROnPlateau watches; unused by the others.
        preprocessing: fitted on the training images in ``setup("fit")``; None passes 0…1 on.
        initialiser: applied in ``setup("fit")``, once, never over loaded weights; None keeps
            torch's defaults.
        label_smoothing: share of the target taken from the true class and spread over all, in
            [0, 1); in the training loss only. Szegedy et al. 2016, arXiv:1512.00567.
        channels_last: keep activations in NHWC order, which CPU and GPU convolutions prefer.

    Raises:
        ValueError: an argument is out of range, or the optimizer refuses its own arguments.
    """

    initialised: Tensor

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "epoch",
        lr_scheduler_monitor: str = "val/loss",
        preprocessing: Preprocessor | None = None,
        initialiser: Initialiser | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2")
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(
                f"image_shape is {image_shape}; expected (channels, height, width), each at least 1"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; expected 0 <= value < 1")
        # A learning rate of -1 is better refused here than at the first step.
        optimizer([nn.Parameter(torch.zeros(1, 1))])

        with warnings.catch_warnings():
            # Outside the command line hparams hold objects; on_save_checkpoint leaves them out.
            warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module`.*")
            self.save_hyperparameters()
        self.num_classes = num_classes
        self.image_shape = image_shape
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.lr_scheduler_monitor = lr_scheduler_monitor
        self.preprocessing = preprocessing
        self.initialiser = initialiser
        self.label_smoothing = label_smoothing
        self.channels_last = channels_last
        # In the state_dict, so that weights which were loaded count as initialised.
        self.register_buffer("initialised", torch.tensor(False))

        def accuracy(average: Literal["micro", "none"] = "micro") -> MulticlassAccuracy:
            return MulticlassAccuracy(num_classes, average=average, validate_args=False)

        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.train_metrics = MetricCollection({"accuracy": accuracy()}, prefix="train/")
        self.val_metrics = MetricCollection({"accuracy": accuracy()}, prefix="val/")
        self.test_metrics = MetricCollection(
            {
                "accuracy": accuracy(),
                "f1_macro": MulticlassF1Score(num_classes, validate_args=False),
                "calibration_error": MulticlassCalibrationError(num_classes, validate_args=False),
            },
            prefix="test/",
        )
        self.test_class_accuracy = accuracy(average="none")

    # What a network may override.

    def gain_activation(self) -> nn.Module | None:
        """The activation whose gain the initialiser uses; None for a linear network."""
        return None

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 ``[N, C, H, W]`` in 0…255, or float in 0…1, to what the first layer takes."""
        if not images.is_floating_point():
            images = images.float() / 255
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def training_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What training minimises, a scalar. ``val/loss`` and ``test/loss`` never call this."""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    # Lightning's hooks.

    def setup(self, stage: str) -> None:
        """Initialise the weights and fit the preprocessing, once in a model's life."""
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        if stage != "fit":
            return
        if not self.initialised:
            if self.initialiser is not None:
                self.initialiser(self, self.gain_activation())
            self.initialised.fill_(True)
        if self.preprocessing is not None and not self.preprocessing.fitted:
            self.preprocessing.fit(self._training_images())

    def _training_images(self) -> Tensor:
        """All training images, uint8 ``[N, C, H, W]``, before augmentation."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            raise UserError(
                f"{type(self.preprocessing).__name__} is fitted on the training images: "
                "call trainer.fit(model, datamodule=...), or model.preprocessing.fit(images) first"
            )
        return torch.cat([images for images, _ in datamodule.train_dataloader()])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        logits = self(images).float()
        loss = self.training_loss(logits, targets)
        self.train_loss.update(loss.detach(), weight=len(images))
        self.train_metrics.update(logits.detach(), targets)
        self.log("loss", loss, prog_bar=True, logger=False)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True)
        self.log_dict(self.train_metrics, on_step=False, on_epoch=True)
        return loss

    def _evaluate(self, batch: Batch, loss: MeanMetric, metrics: MetricCollection) -> Tensor:
        images, targets = batch
        logits = self(images).float()
        loss.update(F.cross_entropy(logits, targets), weight=len(images))
        metrics.update(logits, targets)
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits = self._evaluate(batch, self.val_loss, self.val_metrics)
        self.log("val/loss", self.val_loss, prog_bar=True)
        self.log_dict(self.val_metrics, prog_bar=True)
        return {"logits": logits}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits = self._evaluate(batch, self.test_loss, self.test_metrics)
        self.test_class_accuracy.update(logits, batch[1])
        self.log("test/loss", self.test_loss)
        self.log_dict(self.test_metrics)
        return {"logits": logits}

    def on_test_epoch_end(self) -> None:
        for label, value in enumerate(self.test_class_accuracy.compute()):
            self.log(f"test/accuracy_class_{label}", value)
        self.test_class_accuracy.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities, float ``[N, num_classes]``."""
        return self(batch[0]).float().softmax(dim=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        try:
            optimizer = self.make_optimizer(self.parameters())
            if self.make_lr_scheduler is None:
                return optimizer
            scheduler = with_run_length(self.make_lr_scheduler, self._run_length)(optimizer)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the optimizer or the learning-rate schedule refused its arguments: {error}"
            ) from error
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.lr_scheduler_interval,
                # Lightning's own ReduceLROnPlateau brings its monitor along.
                "monitor": getattr(scheduler, "monitor", self.lr_scheduler_monitor),
            },
        }

    def _run_length(self) -> int:
        """How often a scheduler will step in this run."""
        if self.lr_scheduler_interval == "epoch":
            length: float = self.trainer.max_epochs or -1
        else:
            length = self.trainer.estimated_stepping_batches
        if not 0 < length < float("inf"):
            raise UserError(
                "this schedule needs to know how long the run is: set --trainer.max_epochs "
                f"(now {self.trainer.max_epochs}), or give the schedule its length"
            )
        return int(length)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep code out of the checkpoint, so that it loads with ``weights_only=True``."""
        hparams = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in [name for name, value in hparams.items() if not isinstance(value, _PLAIN)]:
            del hparams[name]
