"""What the speed benchmarks compare: training loops as their users write them, and ours.

Each trains the tutorial's optimized network on so many images of FashionMNIST, and says how long
that took: from the first batch that is asked for to the last step. What comes before (imports, the
data set, the first two batches, which warm up) does not count.
"""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from benchmarks.recipes import ROOT
from datamodules import FashionMNISTDataModule
from glibc_malloc import keep_freed_memory
from lightning_modules import OptimizedCNN
from studies.training import FitCLI

WARM_UP = 2  # batches
# Ours: the precision, layout and batch size that this processor likes.
BATCH_SIZE = 256


def tutorial_network() -> nn.Module:
    """The tutorial's optimized network in plain torch; ``OptimizedCNN`` with its defaults."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.BatchNorm1d(128),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def tutorial_loader(root: str, batch_size: int, num_workers: int = 0) -> DataLoader[Any]:
    """Each image decoded, scaled and normalised by itself, every time."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    data = FashionMNIST(root, train=True, transform=transform)
    return DataLoader(data, batch_size, shuffle=True, num_workers=num_workers)


def timed(batches: Iterable[Any], step: Callable[[Any], None], images: int, size: int) -> float:
    """Seconds for so many images, after the warm-up."""
    iterator = itertools.islice(batches, WARM_UP + images // size)
    for _ in range(WARM_UP):
        step(next(iterator))
    began = time.perf_counter()
    for batch in iterator:
        step(batch)
    return time.perf_counter() - began


def tutorial_loop(root: str, images: int) -> float:
    """The tutorial's loop: batches of 32 in float32, Adam, the loss read after every step."""
    model = tutorial_network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    running = 0.0

    def step(batch: tuple[Tensor, Tensor]) -> None:
        nonlocal running
        inputs, labels = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        running += loss.item()

    return timed(tutorial_loader(root, 32), step, images, 32)


class PlainModule(L.LightningModule):
    """As one writes it after the first page of Lightning's documentation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tutorial_network()
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.accuracy(logits, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.001)


class Clock(L.Callback):
    """Seconds from the end of the warm-up to the epoch's end."""

    seconds = 0.0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if batch_idx == WARM_UP - 1:
            self.began = time.perf_counter()
        elif trainer.is_last_batch:
            self.seconds = time.perf_counter() - self.began


def plain_lightning(root: str, images: int, num_workers: int = 0) -> float:
    """A LightningModule over the same data set, in batches of 128."""
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=WARM_UP + images // 128,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(PlainModule(), tutorial_loader(root, 128, num_workers))
    return clock.seconds


def bare_loop(root: str, images: int, batch_size: int = BATCH_SIZE) -> float:
    """Our network, data, precision and layout without Lightning, metrics or logging: the floor."""
    keep_freed_memory()
    data = FashionMNISTDataModule(root, batch_size=batch_size)
    data.setup("fit")
    model = OptimizedCNN(preprocessing=None, channels_last=True)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        inputs, labels = batch
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return timed(data.train_dataloader(), step, images, batch_size)


def ours(root: str, images: int, batch_size: int = BATCH_SIZE) -> float:
    """``train.py fit`` with metrics, logging and callbacks on."""
    clock = Clock()
    config = ROOT / "configs" / "tutorial" / "optimized_cnn.yaml"
    options = [
        f"--config={config}",
        f"--data.init_args.root={root}",
        f"--data.init_args.batch_size={batch_size}",
        "--model.init_args.channels_last=true",
        "--model.init_args.lr_scheduler=null",
        "--trainer.precision=bf16-mixed",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        f"--trainer.limit_train_batches={WARM_UP + images // batch_size}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        FitCLI(options, Path(folder, "run"), [clock], keep=True)
    return clock.seconds
