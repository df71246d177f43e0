"""Learning-rate schedules against their formulas, step by step and epoch by epoch."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.optim.lr_scheduler as lrs
from lightning import Callback, Trainer

from datamodules import FashionMNISTDataModule
from foundation.errors import UserError
from lightning_modules import BaselineCNN, ChainedScheduler, InverseTime, SequentialLR
from lightning_modules.schedules import build_scheduler

STEPS, EPOCHS = 12, 3  # four steps an epoch


class Rates(Callback):
    """Write down the learning rate that every step is taken with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture(scope="module")
def data(data_root: Path) -> FashionMNISTDataModule:
    return FashionMNISTDataModule(root=str(data_root), train_fraction=0.002, batch_size=2)


@pytest.fixture
def rates(data: FashionMNISTDataModule) -> Callable[..., list[float]]:
    """The rates of a short training that starts from a rate of 1."""

    def run(schedule: Any, interval: Any = "step", **options: Any) -> list[float]:
        model = BaselineCNN(
            width=1,
            hidden_size=1,
            optimizer=partial(torch.optim.SGD, lr=1.0),
            lr_scheduler=schedule,
            lr_scheduler_interval=interval,
        )
        rates = Rates()
        options = {"max_epochs": EPOCHS, "limit_train_batches": STEPS // EPOCHS, **options}
        trainer = Trainer(
            accelerator="cpu",
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[rates],
            **options,
        )
        trainer.fit(model, datamodule=data)
        return rates.rates

    return run


def cosine(t: float, length: float) -> float:
    return (1 + math.cos(math.pi * t / length)) / 2


def one_cycle(t: int, length: int, top: float = 1.0, pct: float = 0.25) -> float:
    """Smith and Topin 2017: up from top/25 by half a cosine, then down to top/250,000."""
    low, end, peak = top / 25, top / 25 / 1e4, pct * length - 1
    if t <= peak:
        return top + (low - top) * cosine(t, peak)
    return end + (top - end) * cosine(t - peak, length - 1 - peak)


cycle = partial(lrs.OneCycleLR, max_lr=1.0, pct_start=0.25, cycle_momentum=False)

OPEN = {
    "cosine": (partial(lrs.CosineAnnealingLR, T_max=-1), cosine),
    "polynomial": (
        partial(lrs.PolynomialLR, total_iters=-1, power=2.0),
        lambda t, length: (1 - t / length) ** 2,
    ),
    "linear": (
        partial(lrs.LinearLR, start_factor=1.0, end_factor=0.1, total_iters=-1),
        lambda t, length: 1 - 0.9 * t / length,
    ),
    "constant": (partial(lrs.ConstantLR, factor=0.5, total_iters=-1), lambda t, length: 0.5),
    "one cycle": (cycle, one_cycle),
    "one cycle, -1": (partial(cycle, total_steps=-1), one_cycle),
    "one cycle, own rate": (partial(cycle, max_lr=-1), one_cycle),
}


@pytest.mark.parametrize("name", OPEN)
def test_an_open_length_is_the_runs_in_steps(name: str, rates: Callable[..., list[float]]) -> None:
    schedule, formula = OPEN[name]
    assert rates(schedule) == pytest.approx([formula(t, STEPS) for t in range(STEPS)])


@pytest.mark.parametrize("name", ["cosine", "polynomial", "linear"])
def test_an_open_length_is_the_runs_in_epochs(name: str, rates: Callable[..., list[float]]) -> None:
    schedule, formula = OPEN[name]
    expected = [formula(e, EPOCHS) for e in range(EPOCHS) for _ in range(STEPS // EPOCHS)]
    assert rates(schedule, interval="epoch") == pytest.approx(expected)


# Lightning asks whether that is meant.
@pytest.mark.filterwarnings("ignore:A `OneCycleLR` scheduler is using")
def test_one_cycle_in_epochs_spans_the_epochs(rates: Callable[..., list[float]]) -> None:
    schedule = partial(cycle, pct_start=2 / 3)
    expected = [one_cycle(e, EPOCHS, pct=2 / 3) for e in range(EPOCHS) for _ in range(4)]
    assert rates(schedule, interval="epoch") == pytest.approx(expected)


def test_accumulated_batches_count_as_one_step(rates: Callable[..., list[float]]) -> None:
    got = rates(OPEN["cosine"][0], accumulate_grad_batches=2)
    assert got == pytest.approx([cosine(batch // 2, STEPS // 2) for batch in range(STEPS)])


def test_max_steps_ends_the_schedule_where_it_ends_the_run(
    rates: Callable[..., list[float]],
) -> None:
    got = rates(OPEN["cosine"][0], max_steps=5)
    assert got == pytest.approx([cosine(t, 5) for t in range(5)])


def test_max_steps_alone_is_length_enough_for_steps(rates: Callable[..., list[float]]) -> None:
    got = rates(OPEN["polynomial"][0], max_steps=6, max_epochs=None)
    assert got == pytest.approx([(1 - t / 6) ** 2 for t in range(6)])


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (partial(lrs.CosineAnnealingLR, T_max=24), lambda t: cosine(t, 24)),
        (partial(lrs.PolynomialLR, total_iters=24), lambda t: 1 - t / 24),
        (partial(cycle, total_steps=24), lambda t: one_cycle(t, 24)),
        (partial(cycle, epochs=2, steps_per_epoch=12), lambda t: one_cycle(t, 24)),
        (partial(cycle, max_lr=0.5), lambda t: one_cycle(t, STEPS, top=0.5)),
        (partial(lrs.StepLR, step_size=5, gamma=0.5), lambda t: 0.5 ** (t // 5)),
        (partial(lrs.LambdaLR, lr_lambda=InverseTime(0.5)), lambda t: 1 / (1 + t / 2)),
    ],
)
def test_a_given_length_stays(
    schedule: Any, formula: Callable[[int], float], rates: Callable[..., list[float]]
) -> None:
    assert rates(schedule) == pytest.approx([formula(t) for t in range(STEPS)])


NO_SUCH_ARGUMENT: dict[str, Any] = {"step": 3}
warm_up = partial(lrs.LinearLR, start_factor=0.25, total_iters=-1)
decay = partial(lrs.CosineAnnealingLR, T_max=-1)


def test_each_schedule_of_a_sequence_spans_its_own_part(rates: Callable[..., list[float]]) -> None:
    schedule = partial(SequentialLR, schedulers=[warm_up, decay], milestones=[4])
    expected = [0.25 + 0.75 * t / 4 for t in range(4)] + [cosine(t, 8) for t in range(8)]
    assert rates(schedule) == pytest.approx(expected)


def test_a_sequence_of_three_spans_the_distances_of_its_milestones(
    rates: Callable[..., list[float]],
) -> None:
    polynomial = partial(lrs.PolynomialLR, total_iters=-1)
    schedule = partial(SequentialLR, schedulers=[warm_up, polynomial, decay], milestones=[2, 5])
    expected = [0.25, 0.625, 1, 2 / 3, 1 / 3, *(cosine(t, 7) for t in range(7))]
    assert rates(schedule) == pytest.approx(expected)


def test_a_sequence_in_epochs_counts_epochs(rates: Callable[..., list[float]]) -> None:
    schedule = partial(SequentialLR, schedulers=[warm_up, decay], milestones=[1])
    expected = [rate for rate in (0.25, 1, 0.5) for _ in range(4)]
    assert rates(schedule, interval="epoch") == pytest.approx(expected)


def test_one_cycle_in_a_sequence_spans_its_part(rates: Callable[..., list[float]]) -> None:
    hold = partial(lrs.ConstantLR, factor=1.0)
    schedule = partial(SequentialLR, schedulers=[hold, cycle], milestones=[4])
    assert rates(schedule)[4:] == pytest.approx([one_cycle(t, 8) for t in range(8)])


def test_a_sequence_within_a_chain_spans_its_part(rates: Callable[..., list[float]]) -> None:
    inner = partial(SequentialLR, schedulers=[warm_up, decay], milestones=[2])
    schedule = partial(ChainedScheduler, schedulers=[inner])
    expected = [0.25, 0.625, *(cosine(t, 10) for t in range(10))]
    assert rates(schedule) == pytest.approx(expected)


def test_the_factors_of_chained_schedules_multiply(rates: Callable[..., list[float]]) -> None:
    half = partial(lrs.ConstantLR, factor=0.5, total_iters=6)
    schedule = partial(ChainedScheduler, schedulers=[half, partial(lrs.ExponentialLR, gamma=0.9)])
    expected = [0.9**t * (0.5 if t < 6 else 1) for t in range(STEPS)]
    assert rates(schedule) == pytest.approx(expected)


def test_an_open_length_in_a_chain_is_the_whole_run(rates: Callable[..., list[float]]) -> None:
    polynomial = partial(lrs.PolynomialLR, total_iters=-1)
    half = partial(lrs.ConstantLR, factor=0.5, total_iters=-1)
    expected = [0.5 * (1 - t / STEPS) for t in range(STEPS)]
    got = rates(partial(ChainedScheduler, schedulers=[half, polynomial]))
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("schedule", [decay, cycle], ids=["cosine", "one cycle"])
def test_a_run_without_an_end_cannot_fill_in_a_length(
    interval: str, schedule: Any, rates: Callable[..., list[float]]
) -> None:
    with pytest.raises(UserError, match=r"how long the run is: set --trainer.max_epochs \(now -1"):
        rates(schedule, interval=interval, max_epochs=-1)


def test_a_schedule_with_its_length_does_not_ask_for_the_runs() -> None:
    def run_length() -> int:
        raise AssertionError("nobody should ask")

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(partial(lrs.CosineAnnealingLR, T_max=3), optimizer, run_length)
    assert isinstance(scheduler, lrs.CosineAnnealingLR)
    assert scheduler.T_max == 3


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (partial(SequentialLR, schedulers=[warm_up, decay], milestones=[]), "milestone"),
        (partial(SequentialLR, schedulers=[warm_up, decay], milestones=[2, 4]), "milestone"),
        (partial(SequentialLR, schedulers=[], milestones=[]), "at least one scheduler"),
        (partial(lrs.LinearLR, start_factor=-1.0), "[Ss]tarting"),
        (partial(lrs.StepLR, **NO_SUCH_ARGUMENT), "step"),
        (partial(cycle, pct_start=2.0), "pct_start"),
    ],
)
def test_a_schedule_that_refuses_its_arguments_says_why(
    schedule: Any, message: str, rates: Callable[..., list[float]]
) -> None:
    with pytest.raises(UserError, match=f"learning-rate schedule refused its .*{message}"):
        rates(schedule)


def test_inverse_time_refuses_a_growing_rate() -> None:
    with pytest.raises(ValueError, match="decay is -1; expected at least 0"):
        InverseTime(-1)
