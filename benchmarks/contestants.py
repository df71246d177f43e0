"""What the speed benchmarks compare: training loops as their users write them, and ours.

Each trains the tutorial's optimized network on so many images of FashionMNIST, or an MLP on MNIST,
and says how long that took, after the first two batches, which warm up and have a time of their
own. Imports and reading the data set do not count.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST, FashionMNIST

from benchmarks.recipes import ROOT
from benchmarks.step import bfloat16_step
from datamodules import FashionMNISTDataModule
from experiment.cli import ExperimentCLI
from foundation.workarounds.glibc_malloc import keep_freed_memory
from lightning_modules import OptimizedCNN
from lightning_modules.preprocessing import MinMaxScaling

WARM_UP = 2  # batches
# Ours: the precision, layout and batch size that this processor likes.
BATCH_SIZE = 256


def tutorial_network(dropout: float = 0.5) -> nn.Module:
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
        nn.Dropout(dropout),
        nn.Linear(128, 10),
    )


def sample_loader(
    root: str, batch_size: int, num_workers: int = 0, data_set: type[MNIST] = FashionMNIST
) -> DataLoader[Any]:
    """Each image decoded, scaled and normalized by itself, every time."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    data = data_set(root, train=True, transform=transform)
    return DataLoader(data, batch_size, shuffle=True, num_workers=num_workers)


class Timed(NamedTuple):
    """Seconds of the warm-up, and of the images after it."""

    warm_up: float
    seconds: float


def timed(batches: Iterable[Any], step: Callable[[Any], None], images: int, size: int) -> Timed:
    """Train on so many images after the warm-up."""
    came = time.perf_counter()
    iterator = itertools.islice(batches, WARM_UP + images // size)
    for _ in range(WARM_UP):
        step(next(iterator))
    began = time.perf_counter()
    for batch in iterator:
        step(batch)
    return Timed(began - came, time.perf_counter() - began)


def tutorial_step(model: nn.Module) -> Callable[[tuple[Tensor, Tensor]], None]:
    """One step of the tutorial's loop: float32, Adam, the loss read every time."""
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

    return step


def tutorial_loop(root: str, images: int) -> Timed:
    """The tutorial's loop in batches of 32."""
    return timed(sample_loader(root, 32), tutorial_step(tutorial_network()), images, 32)


def tutorial_run(root: str, epochs: int, images: int | None = None) -> dict[str, Any]:
    """The tutorial's whole training: its seconds, and the test accuracy after each epoch.

    Args:
        root: of the data.
        epochs: how many.
        images: of each epoch; all of them unless given.
    """
    model = tutorial_network()
    loader, step = sample_loader(root, 32), tutorial_step(model)
    test = FashionMNISTDataModule(root)
    test.setup("test")
    assert test.test_set is not None
    inputs = (test.test_set.images / 255 - 0.5) / 0.5
    found: dict[str, Any] = {"epoch_seconds": [], "test_seconds": [], "accuracy": []}
    for _ in range(epochs):
        began = time.perf_counter()
        for batch in itertools.islice(loader, images and images // 32):
            step(batch)
        found["epoch_seconds"].append(time.perf_counter() - began)
        began = time.perf_counter()
        model.eval()
        with torch.no_grad():
            right = torch.cat([model(part).argmax(1) for part in inputs.split(250)])
        model.train()
        found["test_seconds"].append(time.perf_counter() - began)
        found["accuracy"].append((right == test.test_set.labels).float().mean().item())
    found["seconds"] = sum(found["epoch_seconds"])
    return found


class PlainModule(L.LightningModule):
    """As one writes it after the first page of Lightning's documentation."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
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
    """Seconds of the warm-up and of the rest of the epoch."""

    came: float
    began: float
    timed: Timed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.came = time.perf_counter()

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
            self.timed = Timed(self.began - self.came, time.perf_counter() - self.began)


def plain_lightning(
    root: str,
    images: int,
    num_workers: int = 0,
    network: Callable[[], nn.Module] = tutorial_network,
    data_set: type[MNIST] = FashionMNIST,
) -> Timed:
    """A LightningModule over the same data set, in batches of 128, with Lightning's defaults."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=1,
            limit_train_batches=WARM_UP + images // 128,
            callbacks=[clock],
        )
        trainer.fit(PlainModule(network()), sample_loader(root, 128, num_workers, data_set))
    return clock.timed


def bare_loop(root: str, images: int) -> Timed:
    """Our network, data, precision and layout without Lightning, metrics or logging: the floor."""
    keep_freed_memory()
    data = FashionMNISTDataModule(root, batch_size=BATCH_SIZE)
    data.setup("fit")
    assert data.train_set is not None
    scaling = MinMaxScaling()
    scaling.fit(data.train_set.images)
    model = OptimizedCNN(
        num_classes=10, image_shape=(1, 28, 28), preprocessing=scaling, channels_last=True
    )
    model.to(memory_format=torch.channels_last)
    step = bfloat16_step(model, torch.optim.Adam(model.parameters(), lr=0.001, fused=True))
    return timed(data.train_dataloader(), step, images, BATCH_SIZE)


class TimedCLI(ExperimentCLI):
    """``train.py`` as it is, with a clock."""

    def own_callbacks(self) -> list[Callback]:
        self.clock = Clock()
        return [*super().own_callbacks(), self.clock]


def train_py(root: str, images: int, batch_size: int, *options: str) -> Timed:
    """``train.py fit``, one epoch, with everything that is on by default."""
    with tempfile.TemporaryDirectory() as folder:
        given = [
            f"--runs_dir={folder}",
            f"--data.init_args.root={root}",
            f"--data.init_args.batch_size={batch_size}",
            "--trainer.accelerator=cpu",
            "--trainer.max_epochs=1",
            f"--trainer.limit_train_batches={WARM_UP + images // batch_size}",
        ]
        return TimedCLI(["fit", *options, *given]).clock.timed


def our_cnn(root: str, images: int, compiled: bool = False) -> Timed:
    """The tutorial's network, as fast as this processor has it."""
    return train_py(
        root,
        images,
        BATCH_SIZE,
        f"--config={ROOT / 'configs' / 'tutorial' / 'optimized_cnn.yaml'}",
        f"--config={ROOT / 'configs' / 'hardware' / 'cpu_bf16.yaml'}",
        "--model.init_args.lr_scheduler=null",
        "--model.init_args.optimizer.init_args.fused=true",
        f"--model.init_args.compiled={str(compiled).lower()}",
    )


def tutorial_mlp() -> nn.Module:
    """``MLP`` with its defaults in plain torch."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def our_mlp(root: str, images: int, batch_size: int = 128) -> Timed:
    """``configs/mnist/mlp.yaml``, whose batches are of 128 images, with Adam in one kernel."""
    return train_py(
        root,
        images,
        batch_size,
        f"--config={ROOT / 'configs' / 'mnist' / 'mlp.yaml'}",
        "--model.init_args.optimizer.init_args.fused=true",
    )
