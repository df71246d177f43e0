"""Initial weights: their distribution, and that they are set once in a model's life."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from datamodules import FashionMNISTDataModule
from experiment.cli import ExperimentCLI
from foundation.errors import UserError
from lightning_modules import BaselineCNN, HeUniform, OptimizedCNN
from lightning_modules.initializers import activation_gain


@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        (None, 1),
        (nn.Identity(), 1),
        (nn.ReLU(), math.sqrt(2)),
        (nn.LeakyReLU(0.5), math.sqrt(2 / 1.25)),
        (nn.Tanh(), 5 / 3),
        (nn.Sigmoid(), 1),
        (nn.SELU(), 3 / 4),
        (nn.ELU(), math.sqrt(2)),
        (nn.GELU(), math.sqrt(2)),
        (nn.SiLU(), math.sqrt(2)),
    ],
    ids=str,
)
def test_the_gain_is_the_activations(activation: nn.Module | None, gain: float) -> None:
    assert activation_gain(activation) == pytest.approx(gain)


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Linear(500, 300), 500),
        (nn.Conv2d(64, 128, 3), 64 * 9),
        (nn.Conv2d(64, 128, 3, groups=4), 16 * 9),
        (nn.Conv2d(64, 512, 3, groups=64), 9),
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), None], ids=str)
def test_he_uniform_has_its_bounds_variance_and_mean(
    layer: nn.Conv2d | nn.Linear, fan_in: int, activation: nn.Module | None
) -> None:
    torch.manual_seed(0)
    HeUniform()(layer, activation)
    bound = activation_gain(activation) * math.sqrt(3 / fan_in)
    weight = layer.weight.detach()
    assert 0.99 * bound < weight.abs().max() <= bound * (1 + 1e-6)
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)
    assert weight.mean().item() == pytest.approx(0, abs=0.03 * bound)


def test_he_uniform_is_torchs_kaiming_uniform() -> None:
    ours, theirs = nn.Linear(40, 30), nn.Linear(40, 30)
    torch.manual_seed(0)
    HeUniform()(ours, nn.ReLU())
    torch.manual_seed(0)
    nn.init.kaiming_uniform_(theirs.weight, nonlinearity="relu")
    assert torch.allclose(ours.weight, theirs.weight)


def test_biases_are_zero_and_norms_keep_their_start() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, bias=False), nn.Linear(4, 4)
    )
    for weight in module.parameters():
        nn.init.constant_(weight, 7)
    HeUniform()(module, nn.ReLU())
    values = {name: set(value.flatten().tolist()) for name, value in module.named_parameters()}
    assert values["0.bias"] == values["3.bias"] == {0}
    assert values["1.weight"] == values["1.bias"] == {7}
    assert all(7 not in values[name] for name in ("0.weight", "2.weight", "3.weight"))


def test_the_signal_keeps_its_variance_through_ten_layers() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(m for _ in range(10) for m in (nn.Linear(512, 512), nn.ReLU())))
    HeUniform()(network, nn.ReLU())
    signal = torch.randn(256, 512)
    ratio = network(signal).pow(2).mean() / signal.pow(2).mean()
    assert 0.5 < ratio < 2


# In a model's life.


@pytest.fixture(scope="module")
def data(data_root: Path) -> FashionMNISTDataModule:
    return FashionMNISTDataModule(
        root=str(data_root), train_fraction=0.002, batch_size=16, eval_batch_size=100
    )


def small(**options: Any) -> BaselineCNN:
    """A small network that no step changes."""
    frozen = partial(torch.optim.SGD, lr=0.0)
    shape: Any = {"num_classes": 10, "image_shape": (1, 28, 28)}
    return BaselineCNN(width=2, hidden_size=4, optimizer=frozen, **shape, **options)


def fit(model: LightningModule, data: FashionMNISTDataModule, **options: Any) -> Trainer:
    """Two steps and a checkpoint in memory's reach: ``trainer.save_checkpoint``."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data, **options)
    return trainer


def weights(model: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_fit_initializes_with_the_gain_of_the_networks_activation(
    data: FashionMNISTDataModule,
) -> None:
    for activation, gain in ((nn.ReLU, math.sqrt(2)), (nn.Tanh, 5 / 3)):
        model = BaselineCNN(
            activation=activation,
            initializer=HeUniform(),
            optimizer=partial(torch.optim.SGD, lr=0.0),
        )
        fit(model, data)
        bound = gain * math.sqrt(3 / 3136)
        hidden = model.head.get_parameter("1.weight")
        assert 0.99 * bound < hidden.abs().max() <= bound * (1 + 1e-6)
        assert model.head.get_parameter("1.bias").count_nonzero() == 0


def test_weights_that_are_normed_are_initialized_too(data: FashionMNISTDataModule) -> None:
    model = small(norm="weight", initializer=HeUniform())
    fit(model, data)
    bound = math.sqrt(2) * math.sqrt(3 / 196)
    hidden = cast(nn.Linear, model.head[1]).weight
    assert 0.98 * bound < hidden.abs().max() <= bound * (1 + 1e-5)


def test_without_an_initializer_torchs_weights_stay(data: FashionMNISTDataModule) -> None:
    model = small()
    before = weights(model)
    fit(model, data)
    assert same(weights(model), before)


def test_a_second_fit_does_not_initialize_again(data: FashionMNISTDataModule) -> None:
    model = small(initializer=HeUniform())
    before = weights(model)
    fit(model, data)
    first = weights(model)
    fit(model, data)
    assert not same(first, before)
    assert same(weights(model), first)


def test_validation_alone_does_not_initialize(data: FashionMNISTDataModule) -> None:
    model = small(initializer=HeUniform())
    before = weights(model)
    Trainer(
        accelerator="cpu", limit_val_batches=1, logger=False, enable_progress_bar=False
    ).validate(model, datamodule=data, verbose=False)
    assert same(weights(model), before)
    assert not model.initialized


def test_loaded_weights_are_kept(data: FashionMNISTDataModule) -> None:
    trained = small(initializer=HeUniform())
    fit(trained, data)
    model = small(initializer=HeUniform())
    model.load_state_dict(trained.state_dict())
    fit(model, data)
    assert same(weights(model), weights(trained))


def test_a_checkpoint_resumes_with_its_weights(
    data: FashionMNISTDataModule, tmp_path: Path
) -> None:
    trained = small(initializer=HeUniform())
    fit(trained, data).save_checkpoint(tmp_path / "a.ckpt")
    model = small(initializer=HeUniform())
    fit(model, data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert same(weights(model), weights(trained))


@pytest.mark.parametrize("network", [BaselineCNN, OptimizedCNN])
def test_a_model_from_a_checkpoint_keeps_its_weights_in_the_next_fit(
    data: FashionMNISTDataModule, tmp_path: Path, network: type[BaselineCNN]
) -> None:
    trained = network(width=2, hidden_size=4, initializer=HeUniform())
    fit(trained, data).save_checkpoint(tmp_path / "a.ckpt")
    model = network.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert model.initialized
    assert same(weights(model), weights(trained))
    model.initializer = HeUniform()
    model.make_optimizer = partial(torch.optim.SGD, lr=0.0)
    fit(model, data)
    assert same(weights(model), weights(trained))


def test_a_checkpoint_of_the_command_line_is_a_whole_model(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path
) -> None:
    cli = quick_fit(
        "--model=OptimizedCNN",
        "--model.width=2",
        "--model.activation=torch.nn.GELU",
        "--model.preprocessing=MinMaxScaling",
        "--trainer.logger=false",
        f"--checkpoint.dirpath={tmp_path}",
        "--test_best=false",
        batches=2,
    )
    model = BaselineCNN.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert type(model) is OptimizedCNN
    assert isinstance(model.gain_activation(), nn.GELU)
    assert model.preprocessing is not None
    assert model.preprocessing.fitted
    assert same(weights(model), weights(cli.model))


def test_an_activation_of_a_models_own_script_is_not_lost_silently(
    data: FashionMNISTDataModule, tmp_path: Path
) -> None:
    fit(small(activation=nn.Tanh), data).save_checkpoint(tmp_path / "a.ckpt")
    model = BaselineCNN.load_from_checkpoint(
        tmp_path / "a.ckpt", weights_only=True, activation=nn.Tanh
    )
    assert isinstance(model.gain_activation(), nn.Tanh)
    with pytest.raises(UserError, match="activation Tanh, this one ReLU"):
        BaselineCNN.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)


def test_the_command_line_resumes_with_the_checkpoints_weights(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path
) -> None:
    arguments = [
        "--model=BaselineCNN",
        "--model.width=2",
        "--model.initializer=HeUniform",
        "--model.optimizer=torch.optim.SGD",
        "--model.optimizer.lr=0",
        "--trainer.logger=false",
        f"--checkpoint.dirpath={tmp_path}",
        "--test_best=false",
    ]
    first = quick_fit(*arguments, batches=1)
    resume = [f"--ckpt_path={tmp_path / 'last.ckpt'}", "--seed_everything=5"]
    second = quick_fit(*arguments, *resume, epochs=2, batches=1)
    assert second.trainer.current_epoch == 2
    assert same(weights(second.model), weights(first.model))


def test_the_same_seed_gives_the_same_weights_and_another_others(
    data: FashionMNISTDataModule,
) -> None:
    def made(seed: int) -> list[Tensor]:
        seed_everything(seed, verbose=False)
        model = small(initializer=HeUniform())
        fit(model, data)
        return weights(model)

    assert same(made(1), made(1))
    assert not same(made(1), made(2))
