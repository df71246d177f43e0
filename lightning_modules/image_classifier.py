"""The base of every model here: loss, metrics, preprocessing, initialization, optimization."""

import os
import shutil
import sys
import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

from foundation.errors import UserError
from foundation.monitor import mode_of
from foundation.pixels import as_float
from foundation.seeds import derived_seed, seed_all
from lightning_modules.initializers import Initializer
from lightning_modules.optimizers import probe
from lightning_modules.preprocessing import Preprocessor
from lightning_modules.schedules import build_scheduler, schedule_lengths
from lightning_modules.shaped_module import Shape, ShapedModule

Batch = tuple[Tensor, Tensor]
# How many steps' results wait for the training metrics: an update costs as much as a small network.
_STEPS_PER_UPDATE = 50
_PLAIN = (str, int, float, bool, type(None), list, tuple, dict)


class ImageClassifier(ShapedModule):
    """Classify images. A network is a subclass that makes layers in ``build`` and a ``forward``.

    ``forward`` takes uint8 ``[N, C, H, W]`` in 0…255 or float in 0…1, calls :meth:`preprocess`
    first, and returns logits, float ``[N, num_classes]``. A subclass's ``__init__`` keeps its
    arguments and ends with ``self.adapt()``.

    Args:
        num_classes: number of classes; labels are 0…num_classes-1. None: what the data says.
        image_shape: (channels, height, width) of the images, in pixels. None: what the data says.
        optimizer: any class of ``torch.optim``, called with the parameters.
        lr_scheduler: any class of ``torch.optim.lr_scheduler``, called with the optimizer, or None
            for a constant rate. A length of -1 (``T_max``, ``total_iters``, ``total_steps``; for
            OneCycleLR also none at all) stands for the whole run, in the unit of
            ``lr_scheduler_interval``; OneCycleLR's ``max_lr`` of -1 for the optimizer's own rate.
        lr_scheduler_interval: step the scheduler after every optimizer step or every epoch.
        lr_scheduler_monitor: metric that ReduceLROnPlateau watches, in the mode that its name asks
            for; unused by the others.
        preprocessing: fitted on the training images in ``setup("fit")``; None passes 0…1 on.
        initializer: applied in ``setup("fit")``, once, never over loaded weights; None keeps
            torch's defaults.
        cleaning: preprocessors that come before it, in this order: clipping, imputation. Pixels
            that are still missing after them (NaN) are black.
        label_smoothing: share of the target taken from the true class and spread over all, in
            [0, 1); in the training loss only. Szegedy et al. 2016, arXiv:1512.00567.
        l1: factor of the sum of the absolute weights of convolutions and linear layers in the
            training loss; biases and norm parameters go free. Tibshirani 1996, "the lasso".
        l2: factor of the sum of their squares, likewise. Hoerl and Kennard 1970, "ridge".
        test_time_flip: in validation, test and predict, average the logits of an image and its
            mirror image: twice the work there, none more in training. For data where left and right
            mean the same. Krizhevsky et al. 2012, section 4.1, averages over flips and crops.
        channels_last: keep activations in NHWC order, which CPU and GPU convolutions prefer.
        compiled: have ``torch.compile`` make kernels for the network in the first steps of a fit,
            which takes a while and, on a CPU, a C++ compiler; for one process.

    Raises:
        ValueError: an argument is out of range, or the optimizer refuses its own arguments.
    """

    initialized: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        image_shape: Shape | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["step", "epoch"] = "epoch",
        lr_scheduler_monitor: str = "val/loss",
        preprocessing: Preprocessor | None = None,
        initializer: Initializer | None = None,
        cleaning: list[Preprocessor] | None = None,
        label_smoothing: float = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        test_time_flip: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(num_classes, image_shape)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; expected 0 <= value < 1")
        for name, factor in (("l1", l1), ("l2", l2)):
            if not factor >= 0:
                raise ValueError(f"{name} is {factor}; expected at least 0")
        probe(optimizer)

        with warnings.catch_warnings():
            # Outside the command line hparams hold objects; on_save_checkpoint leaves them out.
            warnings.filterwarnings("ignore", message=".*is an instance of `nn.Module`.*")
            self.save_hyperparameters()
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.lr_scheduler_monitor = lr_scheduler_monitor
        self.cleaning = nn.ModuleList(cleaning or [])
        self.preprocessing = preprocessing
        self.initializer = initializer
        self.label_smoothing = label_smoothing
        self.l1 = l1
        self.l2 = l2
        self.test_time_flip = test_time_flip
        self.channels_last = channels_last
        self.compiled = compiled
        self._schedule_lengths: list[dict[str, int]] | None = None
        self._seed = 0  # of a fit's random numbers, equal in all processes
        # In the state_dict, so that weights which were loaded count as initialized. A float, which
        # averages of weights leave whole, and which follows the model's dtype.
        self.register_buffer("initialized", torch.tensor(0.0))
        # Loss, logits and labels of the steps that the training metrics do not know of yet.
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._prepare_once()

    def prepare(self, image_shape: Shape) -> Shape:
        """Fit preprocessing and metrics to the images' shape and the number of classes."""
        num_classes = self.num_classes
        for step in self._preprocessors():
            image_shape = step.adapt(image_shape)

        def accuracy(average: Literal["micro", "none"] = "micro") -> MulticlassAccuracy:
            return MulticlassAccuracy(num_classes, average=average, validate_args=False)

        # A loss that is no number must be seen, not left out of the mean; with that strategy
        # MeanMetric ignores weights, so it is fed one value per image.
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.test_loss = MeanMetric(nan_strategy="disable")
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
        return image_shape

    # What a network may override.

    def gain_activation(self) -> nn.Module | None:
        """The activation whose gain the initializer uses; None for a linear network."""
        return None

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 ``[N, C, H, W]`` in 0…255, or float in 0…1, to what the first layer takes."""
        missing_possible = images.is_floating_point()
        images = as_float(images, self.initialized.dtype)
        for step in self.cleaning:
            images = step(images)
        if missing_possible:  # what nothing imputed is black
            images = images.nan_to_num(nan=0.0)
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def training_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of training, a scalar. ``val/loss`` and ``test/loss`` never call this.

        Args:
            logits: float ``[N, num_classes]``.
            targets: labels, int64 ``[N]``, or probabilities, float ``[N, num_classes]``.
        """
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        if self.l1 or self.l2:
            weights = [m.weight for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
            if self.l1:
                loss = loss + self.l1 * torch.stack([w.abs().sum() for w in weights]).sum()
            if self.l2:
                loss = loss + self.l2 * torch.stack([w.square().sum() for w in weights]).sum()
        return loss

    # Lightning's hooks.

    def setup(self, stage: str) -> None:
        """Initialize the weights and fit the preprocessing, once in a model's life."""
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        if stage != "fit":
            return
        if self._trainer is not None:
            self._seed = self._trainer.strategy.broadcast(torch.initial_seed())
        if self.compiled and self._compiled_call_impl is None:
            self._compile()
        if not self.initialized:
            if self.initializer is not None:
                self.initializer(self, self.gain_activation())
            self.initialized.fill_(1.0)
        self._fit_preprocessing()

    def _compile(self) -> None:
        """Have kernels made, in the first step of each kind.

        Raises:
            UserError: there are several processes, or no compiler.
        """
        if self.trainer.world_size > 1:
            raise UserError(
                f"compiled is for one process, and this run has {self.trainer.world_size}: set "
                "--model.compiled false"
            )
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        if on_cpu and not shutil.which(cpp_compiler()):
            raise UserError(
                f"compiled needs a C++ compiler on a CPU, and there is no {cpp_compiler()}: "
                "install it, name yours in the environment variable CXX, or set --model.compiled "
                "false"
            )
        # Kernels for each batch size by itself: training's are the faster for it.
        self.compile(dynamic=False)

    def _fit_preprocessing(self) -> None:
        """Fit each step on what the steps before it make of the training images."""
        steps = self._preprocessors()
        if all(step.fitted for step in steps):
            return
        images = self._training_images()
        for step in steps:
            if not step.fitted:
                step.fit(images)
            if step is not steps[-1]:
                images = step(as_float(images))

    def _preprocessors(self) -> list[Any]:
        return [*self.cleaning, *([] if self.preprocessing is None else [self.preprocessing])]

    def _training_images(self) -> Tensor:
        """All training images, uint8 ``[N, C, H, W]``, before augmentation."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            raise UserError(
                "preprocessing is fitted on the training images: call "
                "trainer.fit(model, datamodule=...), or model.preprocessing.fit(images) first"
            )
        train_set = getattr(datamodule, "train_set", None)
        if train_set is not None:
            return train_set.images.cpu()
        return torch.cat([images for images, _ in datamodule.train_dataloader()])

    def on_train_start(self) -> None:
        """Check a restored schedule, and set each process up to train beside the others."""
        for config in self.trainer.lr_scheduler_configs:
            restored = schedule_lengths(config.scheduler)
            if self._schedule_lengths not in (None, restored):
                raise UserError(
                    f"{type(config.scheduler).__name__} was made for a run of another length "
                    f"({restored} instead of {self._schedule_lengths}): resume with the "
                    "--trainer.max_epochs it began with, or start a new run"
                )
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            # Process 0 would send its running statistics before each step, and others wait for
            # them. Only evaluation reads them: on_validation_epoch_start sends them. (The
            # constructor's option would warn.)
            self.trainer.strategy.model.broadcast_buffers = False

    # What an interrupted epoch left behind must not count in the next one.

    def on_train_epoch_start(self) -> None:
        # An epoch's numbers depend on the run's seed, the epoch and the process alone: a resumed
        # run draws what it would have drawn, and processes do not drop and augment alike.
        seed_all(derived_seed(self._seed, self.trainer.current_epoch, self.trainer.global_rank))
        self._waiting.clear()
        self.train_loss.reset()
        self.train_metrics.reset()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        # Before the epoch's end: there, callbacks read the metrics ahead of the module's own hook.
        run = self.trainer
        if run.is_last_batch or run.should_stop or run.global_step == run.max_steps:
            self._update_train_metrics()

    def on_validation_epoch_start(self) -> None:
        self.val_loss.reset()
        self.val_metrics.reset()
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            for buffer in self.buffers():
                distributed.broadcast(buffer, src=0)

    def on_test_epoch_start(self) -> None:
        self.test_loss.reset()
        self.test_metrics.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        try:
            logits = self._logits(images)
        except ValueError as error:
            if len(images) > 1:
                raise
            raise UserError(
                f"a batch of one image cannot be normalized ({error}): choose a --data.batch_size "
                "that leaves no single image at the end of an epoch, or --data.drop_last true"
            ) from error
        loss = self.training_loss(logits, targets)
        labels = targets.argmax(dim=1) if targets.is_floating_point() else targets  # mixed ones
        self._waiting.append((loss.detach(), logits.detach(), labels))
        if self.train_loss.update_count == 0 and len(self._waiting) == 1:
            self._log(self.train_loss, self.train_metrics)
        if len(self._waiting) == _STEPS_PER_UPDATE:
            self._update_train_metrics()
        return loss

    def _update_train_metrics(self) -> None:
        """Tell the training metrics what has waited for them."""
        if self._waiting:
            losses, logits, labels = zip(*self._waiting, strict=True)
            each = [loss.expand(len(part)) for loss, part in zip(losses, labels, strict=True)]
            self.train_loss.update(torch.cat(each))
            self.train_metrics.update(torch.cat(logits), torch.cat(labels))
            self._waiting.clear()

    def _log(self, loss: MeanMetric, metrics: MetricCollection, prog_bar: bool = False) -> None:
        """Name an epoch's metrics in its first step: Lightning reads them at the epoch's end."""
        name = f"{metrics.prefix}loss"
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=prog_bar)
        self.log_dict(metrics, on_step=False, on_epoch=True, prog_bar=prog_bar)

    def _logits(self, images: Tensor) -> Tensor:
        """Of float32 at least: half precision is too coarse for a loss."""
        logits = self(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def infer(self, images: Tensor) -> Tensor:
        """Logits for evaluation, float ``[N, num_classes]``."""
        logits = self._logits(images)
        if self.test_time_flip:
            logits = (logits + self._logits(images.flip(-1))) / 2
        return logits

    def _evaluate(self, batch: Batch, loss: MeanMetric, metrics: MetricCollection) -> Tensor:
        images, targets = batch
        logits = self.infer(images)
        loss.update(F.cross_entropy(logits, targets, reduction="none"))
        metrics.update(logits.softmax(dim=1), targets)
        if loss.update_count == 1:
            self._log(loss, metrics, prog_bar=metrics is self.val_metrics)
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"logits": self._evaluate(batch, self.val_loss, self.val_metrics)}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits = self._evaluate(batch, self.test_loss, self.test_metrics)
        self.test_class_accuracy.update(logits, batch[1])
        return {"logits": logits}

    def on_test_epoch_end(self) -> None:
        for label, value in enumerate(self.test_class_accuracy.compute()):
            self.log(f"test/accuracy_class_{label}", value, sync_dist=True)  # equal in each process
        self.test_class_accuracy.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities, float ``[N, num_classes]``."""
        return self.infer(batch[0]).softmax(dim=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        try:
            optimizer = self.make_optimizer(self.parameters())
            if self.make_lr_scheduler is None:
                return optimizer
            scheduler = build_scheduler(self.make_lr_scheduler, optimizer, self._run_length)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the optimizer or the learning-rate schedule refused its arguments: {error}"
            ) from error
        self._schedule_lengths = schedule_lengths(scheduler)
        # Lightning's own ReduceLROnPlateau brings its monitor along.
        monitor = getattr(scheduler, "monitor", self.lr_scheduler_monitor)
        if isinstance(scheduler, ReduceLROnPlateau):
            mode = mode_of(monitor, otherwise=scheduler.mode)
            worst = float("-inf" if mode == "max" else "inf")
            scheduler.load_state_dict({"mode": mode, "best": worst})
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": self.lr_scheduler_interval,
                "monitor": monitor,
            },
        }

    def _run_length(self) -> int:
        """The number of scheduler steps in this run."""
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
        datamodule = getattr(self._trainer, "datamodule", None)
        if (data := getattr(datamodule, "description", None)) is not None:
            checkpoint["data"] = data
        checkpoint["activation"] = type(self.gain_activation()).__name__
        checkpoint["seed"] = self._seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The activation has no weights that would tell a wrong one: compare it by name.

        Raises:
            UserError: the checkpoint's network has another activation.
        """
        if self._trainer is not None and self._trainer.state.fn == "fit":
            self._seed = checkpoint.get("seed", self._seed)
        self.adapt()  # before the weights come, where a network's construction did not call it
        theirs, ours = checkpoint.get("activation"), type(self.gain_activation()).__name__
        if theirs not in (None, ours):
            raise UserError(
                f"the checkpoint's network has the activation {theirs}, this one {ours}: give it, "
                f"e.g. load_from_checkpoint(path, activation=torch.nn.{theirs})"
            )


def cpp_compiler() -> str:
    """The compiler that ``torch.compile`` calls for kernels of a CPU."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
