"""Pictures in TensorBoard: what the network sees, and where it is wrong."""

from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from typing_extensions import override


def tensorboard_writer(trainer: Trainer) -> Any:
    """The SummaryWriter, or None on other ranks and without a TensorBoardLogger."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            return logger.experiment
    return None


def _class_names(trainer: Trainer, num_classes: int) -> list[str]:
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    return list(names or map(str, range(num_classes)))


class TrainingImages(Callback):
    """Show the first training batch as the network sees it: augmented and preprocessed.

    Preprocessing that makes feature maps of an image is left out.

    Args:
        count: number of images in the grid.
    """

    def __init__(self, count: int = 64) -> None:
        self.count = count

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > 0:
            return
        writer = tensorboard_writer(trainer)
        if writer is None:
            return
        from torchvision.utils import make_grid

        preprocess: Any = getattr(pl_module, "preprocess", lambda images: images)
        with torch.no_grad():
            images = batch[0][: self.count]
            seen = preprocess(images)
            images = (seen if seen.shape[1] in (1, 3) else images).float().cpu().contiguous()
        grid = make_grid(images, nrow=8, normalize=True, pad_value=1.0)
        writer.add_image("train/images", grid, trainer.global_step)


class Mistakes(Callback):
    """Draw the confusion matrix and the most confident mistakes, once at the end.

    After ``fit`` they are those of the last validation, after ``validate`` and ``test`` those of
    the set that was evaluated. Under several processes the confusion matrix is that of all, the
    mistakes are those of the first.

    Args:
        count: number of mistakes to show.
    """

    def __init__(self, count: int = 25) -> None:
        self.count = count
        self._confusion: MulticlassConfusionMatrix | None = None
        self._worst: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def _reset(self) -> None:
        self._confusion = None
        self._worst = []

    @torch.no_grad()
    def _update(self, outputs: Any, batch: tuple[Tensor, Tensor]) -> None:
        images, targets = batch
        logits = outputs["logits"]
        if self._confusion is None:
            self._confusion = MulticlassConfusionMatrix(logits.shape[1], validate_args=False)
            self._confusion.to(logits.device)
        self._confusion.update(logits, targets)
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        confidence = confidence.masked_fill(predicted == targets, -1)
        top = confidence.topk(min(self.count, len(confidence)))
        top_index = top.indices[top.values > 0]
        self._worst.append(
            (confidence[top_index], images[top_index], predicted[top_index], targets[top_index])
        )

    def _draw(self, trainer: Trainer, stage: str) -> None:
        if self._confusion is None:
            return
        matrix = self._confusion.compute().cpu()  # over all processes
        writer = tensorboard_writer(trainer)
        if writer is not None:
            names = _class_names(trainer, len(matrix))
            step = trainer.global_step
            writer.add_figure(f"{stage}/confusion_matrix", confusion_figure(matrix, names), step)
            confidence, images, predicted, targets = (
                torch.cat(parts).cpu() for parts in zip(*self._worst, strict=True)
            )
            order = confidence.argsort(descending=True)[: self.count]
            if len(order):
                figure = mistakes_figure(
                    images[order], predicted[order], targets[order], confidence[order], names
                )
                writer.add_figure(f"{stage}/most_confident_mistakes", figure, step)
            writer.flush()
        self._reset()

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset()

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._update(outputs, batch)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._update(outputs, batch)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "val")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._draw(trainer, "val")

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "test")


def _figure(width: float, height: float, layout: Literal["constrained"] | None = None) -> Any:
    """A matplotlib figure that belongs to no window and needs no closing."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout=layout)


def confusion_figure(matrix: Tensor, names: list[str]) -> Any:
    """Rows are true classes, columns predictions; color is the share of the row.

    Args:
        matrix: int64 ``[C, C]``, counts.
        names: of the C classes.
    """
    figure = _figure(7.5, 7, "constrained")
    axes = figure.add_subplot()
    share = matrix / matrix.sum(dim=1, keepdim=True).clamp_min(1)
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")
    for row in ticks:
        for column in ticks:
            count = int(matrix[row, column])
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, count, ha="center", va="center", color=color, fontsize=8)
    return figure


def mistakes_figure(
    images: Tensor, predicted: Tensor, targets: Tensor, confidence: Tensor, names: list[str]
) -> Any:
    """A grid of wrongly classified images, each with its true and its predicted class.

    Args:
        images: ``[N, C, H, W]``, uint8 in 0…255 or float in 0…1; one channel is
            gray, three are red, green and blue; of others the first is shown.
        predicted: int64 ``[N]``.
        targets: int64 ``[N]``.
        confidence: probability of the predicted class, ``[N]``.
        names: of the classes.
    """
    columns, side, gap, title = 5, images.shape[-1], 4, 9  # in the images' pixels
    rows = -(-len(images) // columns)
    width, height = columns * (side + gap) + gap, rows * (images.shape[-2] + title + gap)
    figure = _figure(9, 9 * height / width)
    # One pair of axes for all: laying out 25 of them takes matplotlib longer than a short epoch.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    colored = images.shape[1] == 3
    for i, image in enumerate(images.movedim(1, 3) if colored else images[:, 0]):
        left = gap + (i % columns) * (side + gap)
        top = title + (i // columns) * (images.shape[-2] + title + gap)
        box = (left, left + side, top + images.shape[-2], top)
        axes.imshow(image.numpy(), cmap="gray", extent=box, aspect="auto")
        axes.text(
            left + side / 2,
            top - 1,
            f"{names[int(targets[i])]}\nnot {names[int(predicted[i])]} ({confidence[i]:.0%})",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure
