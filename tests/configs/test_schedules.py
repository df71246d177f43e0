"""The schedule overlays: the rate at every step of a run is the formula's."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiment.cli import ExperimentCLI
from lightning_modules.schedules import build_scheduler

Build = Callable[..., Any]
TOP = 0.001  # the baseline's Adam


def cosine(t: float, length: float) -> float:
    """From 1 at t = 0 to 0 at ``length``."""
    return (1 + math.cos(math.pi * t / length)) / 2


def one_cycle(t: int, length: int) -> float:
    """Up from 1/25 to 1 within 30% of the run, down to 1/250000 at its end."""
    peak, low, end = 0.3 * length - 1, 1 / 25, 1 / 25 / 1e4
    if t <= peak:
        return low + (1 - low) * (1 - cosine(t, peak))
    return end + (1 - end) * cosine(t - peak, length - 1 - peak)


def warm_restarts(t: int, length: int) -> float:
    cycle = 430
    while t >= cycle:
        t, cycle = t - cycle, 2 * cycle
    return cosine(t, cycle)


def warmup_cosine(t: int, length: int) -> float:
    return 0.01 + 0.99 * t / 100 if t < 100 else cosine(t - 100, length - 100)


# The factor of the optimizer's rate at step t of a run, and when the schedule steps.
SCHEDULES: dict[str, tuple[str, Callable[[int, int], float]]] = {
    "cosine_lr": ("step", cosine),
    "exponential_lr": ("epoch", lambda t, length: 0.9**t),
    "inverse_time_lr": ("epoch", lambda t, length: 1 / (1 + 0.5 * t)),
    "one_cycle": ("step", one_cycle),
    "polynomial_lr": ("step", lambda t, length: 1 - t / length),
    "step_lr": ("epoch", lambda t, length: 0.1 ** (t // 10)),
    "warm_restarts": ("step", warm_restarts),
    "warmup_cosine": ("step", warmup_cosine),
}


def scheduled(model: Any, length: int) -> tuple[torch.optim.Optimizer, Any]:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = model.make_optimizer([weight])
    weight.grad = torch.ones_like(weight)
    return optimizer, build_scheduler(model.make_lr_scheduler, optimizer, lambda: length)


@pytest.mark.parametrize("length", [60, 257])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_follows_the_formula_at_every_step(name: str, length: int, build: Build) -> None:
    length += {"warmup_cosine": 200, "warm_restarts": 3000}.get(name, 0)  # all their parts
    interval, factor = SCHEDULES[name]
    model = build(name)
    assert model.lr_scheduler_interval == interval
    optimizer, schedule = scheduled(model, length)
    rates = []
    for _ in range(length):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [TOP * factor(t, length) for t in range(length)]
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert max(rates) == pytest.approx(TOP, rel=1e-2)
    assert min(rates) < TOP / 4


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_optimizer_of_another_overlay_keeps_its_rate(name: str, build: Build) -> None:
    optimizer, _ = scheduled(build("momentum", name), 400)
    _, factor = SCHEDULES[name]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * factor(0, 400))
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("length", [1, 3, 99, 100, 101])
def test_warmup_runs_as_far_as_a_short_run_goes(length: int, build: Build) -> None:
    optimizer, schedule = scheduled(build("warmup_cosine"), length)
    rates = []
    for _ in range(length):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([TOP * min(1, 0.01 + 0.99 * t / 100) for t in range(length)])


@pytest.mark.parametrize("name", ["cosine_lr", "exponential_lr"])
def test_a_real_run_has_these_rates(
    name: str,
    quick_fit: Callable[..., ExperimentCLI],
    config: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    quick_fit(
        *config(name),
        "--data.train_fraction=0.01",
        "--trainer.log_every_n_steps=1",
        "--model.width=2",
        "--test_best=false",
        epochs=3,
        batches=4,
    )
    (path,) = tmp_path.glob("runs/**/metrics.csv")
    with path.open() as file:
        logged = [row["lr-Adam"] for row in csv.DictReader(file)]
    rates = [float(rate) for rate in logged if rate]
    interval, factor = SCHEDULES[name]
    if interval == "step":
        expected = [TOP * factor(step, 12) for step in range(12)]
    else:
        expected = [TOP * factor(step // 4, 3) for step in range(12)]
    assert rates == pytest.approx(expected, rel=1e-5, abs=1e-9)


# Reduce on plateau.


def rates_of(losses: list[float], build: Build) -> list[float]:
    """The rate after each epoch, as a share of the first."""
    model = build("reduce_on_plateau")
    assert (model.lr_scheduler_interval, model.lr_scheduler_monitor) == ("epoch", "val/loss")
    optimizer, schedule = scheduled(model, 10)
    rates = []
    for loss in losses:
        schedule.step(loss)
        rates.append(optimizer.param_groups[0]["lr"] / TOP)
    return rates


@pytest.mark.parametrize(
    ("losses", "rates"),
    [
        ([1 - epoch / 100 for epoch in range(20)], [1] * 20),  # it improves
        ([1.0] + [1.0] * 5, [1] * 6),  # five epochs are borne
        ([1.0] + [1.0] * 12, [1] * 6 + [0.5] * 6 + [0.25]),  # the sixth is not
        ([1.0] + [1.1] * 5 + [0.9] + [0.95] * 6, [1] * 12 + [0.5]),  # counted from the best
    ],
    ids=["improves", "five", "thirteen", "again"],
)
def test_a_plateau_halves_the_rate(losses: list[float], rates: list[float], build: Build) -> None:
    assert rates_of(losses, build) == pytest.approx(rates)
