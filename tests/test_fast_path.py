"""What makes training fast changes nothing but the time: the same losses as a plain loop."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback
from torch import Tensor

import train
from benchmarks.contestants import tutorial_network
from experiment.cli import ExperimentCLI

STEPS = 50


class Recorder(Callback):
    """The weights before training, every batch, every loss."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.losses: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights = [weight.detach().clone() for weight in pl_module.parameters()]

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(tuple(part.clone() for part in batch))
        self.losses.append(outputs["loss"].item())


@pytest.fixture
def trained(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Recorder]:
    """``train.py fit`` of the tutorial's network without chance, for 50 steps."""

    def run(*options: str) -> Recorder:
        recorder = Recorder()
        own = ExperimentCLI.own_callbacks
        with monkeypatch.context() as patch:
            patch.setattr(ExperimentCLI, "own_callbacks", lambda cli: [*own(cli), recorder])
            train.main(
                [
                    "fit",
                    "--config=configs/tutorial/optimized_cnn.yaml",
                    *options,
                    f"--data.root={data_root}",
                    "--model.dropout=0",
                    "--data.batch_size=128",
                    f"--runs_dir={tmp_path}",
                    "--test_best=false",
                    "--trainer.max_epochs=1",
                    f"--trainer.limit_train_batches={STEPS}",
                    "--trainer.limit_val_batches=1",
                    "--trainer.enable_progress_bar=false",
                ]
            )
        assert len(recorder.losses) == STEPS
        return recorder

    return run


def plain_losses(recorder: Recorder) -> Tensor:
    """The same training as one writes it: float32, NCHW, Adam, nothing else."""
    network = tutorial_network(dropout=0.0)
    with torch.no_grad():
        for weight, given in zip(network.parameters(), recorder.weights, strict=True):
            weight.copy_(given)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    losses = []
    for images, labels in recorder.batches:
        loss = F.cross_entropy(network((images / 255 - 0.5) / 0.5), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


# Sums in another order, or of numbers of 8 bits; each step's difference grows in those after it.
@pytest.mark.parametrize(
    ("options", "first", "all_of_them"),
    [
        (("--model.channels_last=true",), 1e-4, 0.06),
        pytest.param(
            ("--config=configs/hardware/cpu_bf16.yaml",), 0.01, 0.06, marks=pytest.mark.slow
        ),
    ],
    ids=["float32", "bfloat16"],
)
def test_the_losses_are_those_of_a_plain_loop(
    trained: Callable[..., Recorder], options: tuple[str, ...], first: float, all_of_them: float
) -> None:
    recorder = trained(*options)
    ours, plain = torch.tensor(recorder.losses), plain_losses(recorder)
    assert plain[-5:].mean() < 0.4 * plain[0]  # it learns
    # He-uniform weights in the last layer, too, start above a guess's loss; differences with them.
    scale = plain[0] / math.log(10)
    apart = (ours - plain).abs() / scale
    assert apart[0] < first
    assert apart.max() < all_of_them
    assert abs((ours - plain).mean()) / scale < all_of_them / 4
