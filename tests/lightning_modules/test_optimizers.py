"""Muon with AdamW: who trains what, the step, the state, the rates."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from lightning_modules import BaselineCNN, MuonWithAdamW

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

VALUES: dict[str, Any] = {
    "lr": 0.03,
    "momentum": 0.9,
    "weight_decay": 0.02,
    "adamw_lr": 0.002,
    "adamw_betas": (0.8, 0.99),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 10)
    )


def train(model: nn.Module, *optimizers: Optimizer, steps: int = 1, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images = torch.randn(6, 1, 8, 8, generator=generator)
        loss = model(images).square().mean()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def test_muon_gets_the_linear_layers_weights_and_adamw_the_rest() -> None:
    model = BaselineCNN(**GRAY, norm="batch")
    muon, adamw = MuonWithAdamW(model.parameters()).param_groups
    names = {id(weight): name for name, weight in model.named_parameters()}
    matrices = {names[id(weight)] for weight in muon["params"]}
    others = {names[id(weight)] for weight in adamw["params"]}
    assert matrices == {"head.1.weight", "head.5.weight"}
    assert matrices | others == set(names.values())
    assert not matrices & others


def test_it_steps_as_muon_and_adamw_do_apart() -> None:
    ours, theirs = network(), network()
    together = MuonWithAdamW(ours.parameters(), **VALUES)
    matrices = [weight for weight in theirs.parameters() if weight.ndim == 2]
    others = [weight for weight in theirs.parameters() if weight.ndim != 2]
    muon = Muon(matrices, lr=0.03, momentum=0.9, weight_decay=0.02)
    adamw = AdamW(others, lr=0.002, betas=(0.8, 0.99), weight_decay=0.02)
    before = weights(ours)
    for step in range(3):
        train(ours, together, seed=step)
        train(theirs, muon, adamw, seed=step)
        for mine, reference in zip(weights(ours), weights(theirs), strict=True):
            assert torch.equal(mine, reference)
    assert all(not torch.equal(old, new) for old, new in zip(before, weights(ours), strict=True))


def test_a_loaded_state_continues_the_training_exactly() -> None:
    through, model = network(), network()
    optimizer = MuonWithAdamW(through.parameters(), **VALUES)
    train(through, optimizer, steps=3)
    saved = copy.deepcopy({"model": through.state_dict(), "optimizer": optimizer.state_dict()})
    train(through, optimizer, steps=3, seed=2)

    model.load_state_dict(saved["model"])
    resumed = MuonWithAdamW(model.parameters())  # the values come from the state
    resumed.load_state_dict(saved["optimizer"])
    train(model, resumed, steps=3, seed=2)
    for mine, reference in zip(weights(model), weights(through), strict=True):
        assert torch.equal(mine, reference)


def test_without_its_state_the_training_continues_otherwise() -> None:
    through = network()
    optimizer = MuonWithAdamW(through.parameters(), **VALUES)
    train(through, optimizer, steps=3)
    model = copy.deepcopy(through)
    train(through, optimizer, seed=2)
    train(model, MuonWithAdamW(model.parameters(), **VALUES), seed=2)
    assert not torch.equal(weights(model)[-2], weights(through)[-2])


def test_a_schedule_changes_the_rates_of_both() -> None:
    model = network()
    optimizer = MuonWithAdamW(model.parameters(), **VALUES)
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, optimizer)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.015, 0.001]
    train(model, optimizer)
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0075, 0.0005]


@pytest.mark.parametrize("loaded", [False, True])
def test_the_step_takes_the_rates_that_the_schedule_set(loaded: bool) -> None:
    model = network()
    optimizer = MuonWithAdamW(model.parameters(), **VALUES)
    if loaded:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    schedule = LambdaLR(optimizer, lambda step: float(step == 0))
    train(model, optimizer)
    schedule.step()
    before = weights(model)
    train(model, optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, weights(model), strict=True))


def test_one_cycle_takes_a_peak_for_each() -> None:
    optimizer = MuonWithAdamW(network().parameters(), **VALUES)
    OneCycleLR(optimizer, max_lr=[0.03, 0.002], total_steps=10, cycle_momentum=False)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.03 / 25, 0.002 / 25])


@pytest.mark.parametrize(("shape", "kind"), [((4, 3), Muon), ((4,), AdamW), ((2, 3, 1, 1), AdamW)])
def test_one_kind_of_parameter_alone_will_do(shape: tuple[int, ...], kind: type) -> None:
    weight = nn.Parameter(torch.ones(shape))
    optimizer = MuonWithAdamW([weight])
    assert [type(inner) for inner in optimizer.inner] == [kind]
    weight.square().sum().backward()
    optimizer.step()
    assert (weight < 1).all()


def test_the_closure_is_called_once_with_gradients_and_its_loss_comes_back() -> None:
    weight, calls = nn.Parameter(torch.ones(2, 2)), []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert MuonWithAdamW([weight]).step(closure) == 4
    assert calls == [True]


@pytest.mark.parametrize("values", [{"lr": -1.0}, {"adamw_lr": -1.0}, {"weight_decay": -1.0}])
def test_a_value_that_one_of_them_refuses_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"-1\.0|non-negative"):
        MuonWithAdamW(network().parameters(), **values)
