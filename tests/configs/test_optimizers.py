"""The optimizer overlays: each step equals the textbook's, with the overlay's own values."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from foundation.checkout import technique

Build = Callable[..., Any]
Gradient = Callable[[Tensor], Tensor]
Rule = Callable[..., Iterator[Tensor]]
STEPS = 6


def values(name: str) -> dict[str, Any]:
    """The arguments that the overlay gives its optimizer."""
    overlay = yaml.safe_load(technique(name).read_text())
    return overlay["model"]["init_args"]["optimizer"]["init_args"]


# A small, badly conditioned quadratic: 1/2 w·A·w - b·w.
A = torch.tensor([[5.0, 1.0, 0.0], [1.0, 0.8, 0.2], [0.0, 0.2, 0.1]], dtype=torch.float64)
B = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
START = torch.tensor([1.5, -0.7, 2.0], dtype=torch.float64)


def slope(w: Tensor) -> Tensor:
    return A @ w - B


# The textbook rules, each yielding the weights after every step.


def sgd(w: Tensor, lr: float, momentum: float) -> Iterator[Tensor]:
    assert momentum == 0
    while True:
        w = w - lr * slope(w)
        yield w


def heavy_ball(w: Tensor, lr: float, momentum: float, nesterov: bool) -> Iterator[Tensor]:
    assert not nesterov
    velocity = torch.zeros_like(w)
    while True:
        velocity = momentum * velocity - lr * slope(w)
        w = w + velocity
        yield w


def nesterov(w: Tensor, lr: float, momentum: float, nesterov: bool) -> Iterator[Tensor]:
    """Bengio et al. 2012: the weights that are kept are the point where the momentum leads."""
    assert nesterov
    velocity, behind = torch.zeros_like(w), w
    while True:
        ahead = behind + momentum * velocity
        velocity = momentum * velocity - lr * slope(ahead)
        behind = behind + velocity
        yield behind + momentum * velocity


def adagrad(w: Tensor, lr: float) -> Iterator[Tensor]:
    total = torch.zeros_like(w)
    while True:
        g = slope(w)
        total = total + g**2
        w = w - lr * g / (total.sqrt() + 1e-10)
        yield w


def adadelta(w: Tensor, lr: float, rho: float) -> Iterator[Tensor]:
    gradients, steps = torch.zeros_like(w), torch.zeros_like(w)
    while True:
        g = slope(w)
        gradients = rho * gradients + (1 - rho) * g**2
        step = (steps + 1e-6).sqrt() / (gradients + 1e-6).sqrt() * g
        steps = rho * steps + (1 - rho) * step**2
        w = w - lr * step
        yield w


def rmsprop(w: Tensor, lr: float, alpha: float) -> Iterator[Tensor]:
    square = torch.zeros_like(w)
    while True:
        g = slope(w)
        square = alpha * square + (1 - alpha) * g**2
        w = w - lr * g / (square.sqrt() + 1e-8)
        yield w


def adam(w: Tensor, lr: float, weight_decay: float = 0.0) -> Iterator[Tensor]:
    """Kingma and Ba; a decay apart from the gradient is Loshchilov and Hutter's."""
    m, v, t = torch.zeros_like(w), torch.zeros_like(w), 0
    while True:
        t += 1
        g = slope(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        corrected, root = m / (1 - 0.9**t), (v / (1 - 0.999**t)).sqrt()
        w = w - lr * weight_decay * w - lr * corrected / (root + 1e-8)
        yield w


def plain_adam(w: Tensor, lr: float, weight_decay: float) -> Iterator[Tensor]:
    assert weight_decay == 0
    return adam(w, lr)


def nadam(w: Tensor, lr: float) -> Iterator[Tensor]:
    """Dozat 2016, with the schedule of momenta that the paper gives."""
    m, v, t, product = torch.zeros_like(w), torch.zeros_like(w), 0, 1.0
    while True:
        t += 1
        mu, following = (0.9 * (1 - 0.5 * 0.96 ** (0.004 * s)) for s in (t, t + 1))
        product *= mu
        g = slope(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        ahead = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
        w = w - lr * ahead / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        yield w


RULES: dict[str, Rule] = {
    "sgd": sgd,
    "momentum": heavy_ball,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "rmsprop": rmsprop,
    "adam": plain_adam,
    "nadam": nadam,
    "adamw": adam,
}


@pytest.mark.parametrize("name", RULES)
def test_the_first_steps_are_the_textbooks(name: str, build: Build) -> None:
    weight = nn.Parameter(START.clone())
    optimizer = build(name).make_optimizer([weight])
    for step, expected in zip(range(STEPS), RULES[name](START, **values(name)), strict=False):
        weight.grad = slope(weight.detach())
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected, atol=1e-10, rtol=1e-9, msg=str(step))
    assert (weight - START).abs().min() > 1e-4


@pytest.mark.parametrize("name", RULES)
def test_the_loss_falls_with_the_overlays_own_values(name: str, build: Build) -> None:
    weight = nn.Parameter(START.clone())
    optimizer = build(name).make_optimizer([weight])

    def loss() -> float:
        w = weight.detach()
        return (w @ A @ w / 2 - B @ w).item()

    before = loss()
    for _ in range(200):
        weight.grad = slope(weight.detach())
        optimizer.step()
    assert math.isfinite(loss())
    assert loss() < before - 0.05


@pytest.mark.parametrize(("name", "decoupled"), [("adamw", True), ("adam", False), ("sgd", False)])
def test_weight_decay_joins_the_gradient_or_the_weight(
    name: str, decoupled: bool, build: Build
) -> None:
    weight = nn.Parameter(START.clone())
    optimizer = build(name, "weight_decay").make_optimizer([weight])
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 1e-4
    weight.grad = torch.zeros_like(START)
    optimizer.step()
    lr = group["lr"]
    if decoupled:
        expected = START * (1 - lr * 1e-4)
    elif name == "sgd":
        expected = START - lr * 1e-4 * START
    else:  # Adam makes a full step of the smallest gradient
        g = 1e-4 * START
        expected = START - lr * g / (g.abs() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected)
