"""Mean and spread of activations and gradients per layer, against a computation by hand."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from callbacks import SignalStatistics
from datamodules import FashionMNISTDataModule
from experiment.cli import ExperimentCLI
from lightning_modules import BaselineCNN, MinMaxScaling

GRAY: dict[str, Any] = {"num_classes": 10, "image_shape": (1, 28, 28)}

CONFIGS = Path(__file__).parents[2] / "configs"
TAGS = {f"signal/{kind}_{what}" for kind in ("activation", "gradient") for what in ("mean", "std")}


class First(Callback):
    """Keep the network as it was before its first step, and the batch it then got."""

    network: BaselineCNN
    batch: tuple[Tensor, Tensor]

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: tuple[Tensor, Tensor], batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            weights = copy.deepcopy(pl_module.state_dict())
            self.network = BaselineCNN(
                **GRAY, width=2, hidden_size=4, preprocessing=MinMaxScaling()
            )
            self.network.load_state_dict(weights)
            self.batch = batch


def fit(
    root: Path, network: BaselineCNN, *callbacks: Callback, logger: Any = False, epochs: int = 2
) -> Trainer:
    seed_everything(0, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=3,
        limit_val_batches=1,
        log_every_n_steps=1,
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network, datamodule=FashionMNISTDataModule(root=str(root), train_fraction=0.01))
    return trainer


def small() -> BaselineCNN:
    return BaselineCNN(**GRAY, width=2, hidden_size=4, preprocessing=MinMaxScaling())


def by_hand(network: BaselineCNN, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """(mean, standard deviation) by kind and layer; the layers are called one after another."""
    images, labels = batch
    names = {module: name for name, module in network.named_modules()}
    signal = network.preprocess(images)
    outputs: dict[str, Tensor] = {}
    parts = [*network.features, network.head]
    for module in (module for part in parts for module in part.children()):
        signal = module(signal)
        if isinstance(module, nn.Conv2d | nn.Linear):
            signal.retain_grad()
            outputs[names[module]] = signal
    F.cross_entropy(signal, labels).backward()
    gradients = {name: output.grad for name, output in outputs.items() if output.grad is not None}

    def describe(signals: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
        return {name: (s.mean().item(), s.std().item()) for name, s in signals.items()}

    return {"activation": describe(outputs), "gradient": describe(gradients)}


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """The ``signal/`` curves of a run: value by step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    result = {}
    for tag in events.Tags()["scalars"]:
        if tag.startswith("signal/"):
            values = events.Scalars(tag)
            assert len({event.step for event in values}) == len(values)  # written once
            result[tag] = {event.step: event.value for event in values}
    return result


@pytest.fixture(scope="module")
def measured(
    data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SignalStatistics, First, Path]:
    """The callback after two epochs, what it saw, and the run's folder."""
    statistics, first = SignalStatistics(), First()
    logger = TensorBoardLogger(str(tmp_path_factory.mktemp("signal")))
    fit(data_root, small(), statistics, first, logger=logger)
    return statistics, first, Path(logger.log_dir)


Measured = tuple[SignalStatistics, First, Path]


def test_the_layers_stand_in_the_order_of_the_signal(measured: Measured) -> None:
    kinds = (nn.Conv2d, nn.Linear)
    names = [name for name, m in measured[1].network.named_modules() if isinstance(m, kinds)]
    assert measured[0].layers == names
    assert len(names) == 4


@pytest.mark.parametrize("kind", ["activation", "gradient"])
def test_the_values_are_those_of_the_first_batch_and_the_first_weights(
    measured: Measured, kind: str
) -> None:
    statistics, first, _ = measured
    expected = by_hand(first.network, first.batch)[kind]
    assert list(expected) == statistics.layers
    assert set(statistics.statistics) == {"activation", "gradient"}
    for name, values in expected.items():
        assert statistics.statistics[kind][name] == pytest.approx(values, rel=1e-4, abs=1e-8)
        assert values[1] > 0


def test_tensorboard_has_each_value_once_at_the_layers_position(measured: Measured) -> None:
    statistics, _, folder = measured
    written = curves(folder)
    assert set(written) == TAGS
    for kind in ("activation", "gradient"):
        for index, what in enumerate(("mean", "std")):
            expected = {
                position: statistics.statistics[kind][name][index]
                for position, name in enumerate(statistics.layers)
            }
            assert written[f"signal/{kind}_{what}"] == pytest.approx(expected, rel=1e-5)


def test_nothing_stays_hooked_to_the_network(data_root: Path) -> None:
    network = small()
    fit(data_root, network, SignalStatistics())
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


def test_measuring_changes_no_weight(data_root: Path) -> None:
    def weights(*callbacks: Callback) -> list[Tensor]:
        seed_everything(1, verbose=False)
        network = small()
        fit(data_root, network, *callbacks)
        return list(network.parameters())

    for with_it, without in zip(weights(SignalStatistics()), weights(), strict=True):
        assert torch.equal(with_it, without)


def test_a_frozen_first_layer_has_an_activation_and_no_gradient(
    data_root: Path, tmp_path: Path
) -> None:
    network = small()
    network.features[0].requires_grad_(False)
    statistics = SignalStatistics()
    fit(data_root, network, statistics, logger=TensorBoardLogger(str(tmp_path)), epochs=1)
    assert list(statistics.statistics["activation"]) == statistics.layers
    assert list(reversed(statistics.statistics["gradient"])) == statistics.layers[1:]


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_a_vanishing_or_exploding_signal_can_be_seen(data_root: Path, scale: float) -> None:
    def spread(scale: float) -> list[float]:
        seed_everything(1, verbose=False)
        network = small()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(scale if parameter.dim() > 1 else 0)
        statistics = SignalStatistics()
        fit(data_root, network, statistics, epochs=1)
        return [statistics.statistics["activation"][name][1] for name in statistics.layers]

    # Without biases, every layer of a ReLU network multiplies its input's scale.
    expected = [plain * scale ** (layer + 1) for layer, plain in enumerate(spread(1))]
    assert spread(scale) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("config", "layers"), [("optimized_cnn", 4), ("mlp", 2)])
def test_the_command_line_measures_every_run(
    quick_fit: Callable[..., ExperimentCLI], config: str, layers: int
) -> None:
    cli = quick_fit(f"--config={CONFIGS / config}.yaml", "--test_best=false", batches=2)
    written = curves(Path(cli.trainer.logger.log_dir))  # type: ignore[union-attr,arg-type]
    assert set(written) == TAGS
    for tag, values in written.items():
        assert list(values) == list(range(layers)), tag
        if tag.endswith("_std"):
            assert all(value > 0 for value in values.values())
