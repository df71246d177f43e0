"""The base of every model: optimizers and schedules from YAML, losses, metrics, messages."""

import math
from collections.abc import Callable
from functools import partial
from inspect import isclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.optim.lr_scheduler as lrs
import yaml
from lightning import Callback, Trainer
from torch import Tensor, nn

from callbacks import ProgressBar
from datamodules import FashionMNISTDataModule
from experiment.cli import ExperimentCLI
from lightning_modules import BaselineCNN, MuonWithAdamW, OptimizedCNN

# Whatever this torch has, also what it will have next year.
OPTIMIZERS = sorted(
    name
    for name, value in vars(torch.optim).items()
    if isclass(value) and issubclass(value, torch.optim.Optimizer) and name != "Optimizer"
)
SCHEDULERS = sorted(
    name
    for name, value in vars(lrs).items()
    if isclass(value) and issubclass(value, lrs.LRScheduler) and not name.endswith("LRScheduler")
)

Run = Callable[..., ExperimentCLI]


@pytest.fixture
def from_yaml(quick_fit: Run, tmp_path: Path) -> Run:
    """Three small steps by the real command line, with the model's arguments from a YAML file."""

    def run(init_args: dict[str, Any], *arguments: str, epochs: int = 1) -> ExperimentCLI:
        path = tmp_path / "overlay.yaml"
        path.write_text(yaml.safe_dump({"model": {"init_args": init_args}}))
        return quick_fit(
            "--model=BaselineCNN",
            "--model.width=2",
            "--model.hidden_size=8",
            "--model.initializer=HeUniform",
            "--data.train_fraction=0.01",
            "--data.batch_size=8",
            "--data.eval_batch_size=50",
            "--trainer.logger=false",
            f"--checkpoint.dirpath={tmp_path}",
            "--test_best=false",
            f"--config={path}",
            *arguments,
            batches=3,
            epochs=epochs,
        )

    return run


# Optimizers.


@pytest.mark.parametrize(
    "name", [name for name in OPTIMIZERS if name not in ("Muon", "SparseAdam")]
)
def test_every_optimizer_of_torch_trains_from_yaml(name: str, from_yaml: Run) -> None:
    arguments: dict[str, Any] = {"lr": 0.015625}
    if name == "LBFGS":
        arguments["max_iter"] = 3  # with torch's 20 it diverges on batches of 8
    cli = from_yaml({"optimizer": {"class_path": f"torch.optim.{name}", "init_args": arguments}})
    used = cli.trainer.optimizers[0]
    assert type(used) is getattr(torch.optim, name)
    assert float(used.param_groups[0]["lr"]) == 0.015625
    assert cli.trainer.global_step == 3
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    # He-uniform starts with biases of zero, so that what is there now was learned.
    assert cli.model.head[-1].bias.count_nonzero() == 10


@pytest.mark.parametrize(
    ("name", "messages"),
    [("Muon", ["Muon", "2D"]), ("SparseAdam", ["SparseAdam", "dense"])],
)
def test_an_optimizer_that_cannot_train_a_network_ends_with_its_reason(
    name: str, messages: list[str], from_yaml: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        from_yaml({"optimizer": f"torch.optim.{name}"})
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert all(message in error for message in messages)
    assert "Traceback" not in error


def test_muon_with_adamw_trains_from_yaml_with_a_schedule(from_yaml: Run) -> None:
    halve = {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.5}}
    cli = from_yaml(
        {
            "optimizer": {
                "class_path": "MuonWithAdamW",
                "init_args": {"lr": 0.5, "adamw_lr": 0.25},
            },
            "lr_scheduler": halve,
            "lr_scheduler_interval": "step",
        }
    )
    used = cli.trainer.optimizers[0]
    assert isinstance(used, MuonWithAdamW)
    assert [group["lr"] for group in used.param_groups] == [0.5 / 8, 0.25 / 8]
    assert cli.model.head[-1].bias.count_nonzero() == 10


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"class_path": "torch.optim.Adam", "init_args": {"lr": -1.0}}, "Invalid learning rate"),
        ({"class_path": "torch.optim.SGD", "init_args": {"nesterov": True}}, "Nesterov"),
        ({"class_path": "torch.optim.Adam", "init_args": {"rate": 1.0}}, "rate"),
        ("torch.optim.Adan", "torch.optim.Adan"),
    ],
)
def test_a_refused_optimizer_ends_with_a_line(
    optimizer: Any, message: str, from_yaml: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        from_yaml({"optimizer": optimizer})
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert "Traceback" not in error


# Schedules.


def shrink(step: int) -> float:
    """A user's own function, named in YAML by its dotted path."""
    return 1 / (step + 2)


STEP = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}
EXPONENTIAL = {
    "class_path": "torch.optim.lr_scheduler.ExponentialLR",
    "init_args": {"gamma": 0.5},
}
# Arguments, and the factor by which the rate has changed after three steps; None: torch is asked.
ARGUMENTS: dict[str, tuple[dict[str, Any], float | None]] = {
    "ChainedScheduler": ({"schedulers": [STEP, EXPONENTIAL]}, 0.05**3),
    "ConstantLR": ({"factor": 0.25}, None),
    "CosineAnnealingLR": ({"T_max": 6}, (1 + math.cos(math.pi / 2)) / 2),
    "CosineAnnealingWarmRestarts": ({"T_0": 4}, None),
    "CyclicLR": ({"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 6}, None),
    "ExponentialLR": ({"gamma": 0.5}, 1 / 8),
    "LambdaLR": ({"lr_lambda": f"{__name__}.shrink"}, 1 / 5),
    "LinearLR": ({"start_factor": 0.5, "total_iters": 6}, 0.75),
    "MultiStepLR": ({"milestones": [1, 3]}, 0.01),
    "MultiplicativeLR": ({"lr_lambda": f"{__name__}.shrink"}, 1 / 3 / 4 / 5),
    "OneCycleLR": ({"max_lr": 0.5, "total_steps": 10}, None),
    "PolynomialLR": ({"total_iters": 6, "power": 2.0}, 0.25),
    "ReduceLROnPlateau": ({"patience": 0, "threshold": 1.0}, None),
    "SequentialLR": ({"schedulers": [STEP, EXPONENTIAL], "milestones": [2]}, 0.5),
    "StepLR": ({"step_size": 2}, 0.1),
}
OURS = ("ChainedScheduler", "SequentialLR")
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}


def by_torch(name: str, arguments: dict[str, Any], steps: int) -> float:
    """The rate after ``steps``, by torch alone."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = getattr(lrs, name)(optimizer, **arguments)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    return optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "ReduceLROnPlateau"])
def test_every_schedule_of_torch_runs_from_yaml(name: str, from_yaml: Run) -> None:
    arguments, factor = ARGUMENTS[name]
    module = "lightning_modules" if name in OURS else "torch.optim.lr_scheduler"
    cli = from_yaml(
        {
            "optimizer": SGD,
            "lr_scheduler": {"class_path": f"{module}.{name}", "init_args": arguments},
            "lr_scheduler_interval": "step",
        }
    )
    expected = by_torch(name, arguments, 3) if factor is None else 0.1 * factor
    assert isinstance(cli.trainer.lr_scheduler_configs[0].scheduler, getattr(lrs, name))
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("name", OURS)
def test_torchs_own_composite_schedules_end_with_a_line(
    name: str, from_yaml: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = {"class_path": f"torch.optim.lr_scheduler.{name}", "init_args": ARGUMENTS[name][0]}
    with pytest.raises(SystemExit) as stop:
        from_yaml({"optimizer": SGD, "lr_scheduler": schedule})
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_schedule_steps_every_epoch_by_default(from_yaml: Run) -> None:
    cli = from_yaml({"optimizer": SGD, "lr_scheduler": EXPONENTIAL}, epochs=2)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)


def test_a_run_without_a_schedule_keeps_its_rate(from_yaml: Run) -> None:
    cli = from_yaml({"optimizer": SGD})
    assert cli.trainer.lr_scheduler_configs == []
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0.1


def best(cli: ExperimentCLI) -> float:
    """The best value that ReduceLROnPlateau has seen."""
    scheduler = cli.trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, lrs.ReduceLROnPlateau)
    return float(scheduler.best)


def test_reduce_on_plateau_lowers_the_rate_where_nothing_is_better(from_yaml: Run) -> None:
    # With a threshold of 1 nothing ever counts as better: the rate falls every epoch.
    schedule = {
        "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "init_args": {"patience": 0, "threshold": 1.0},
    }
    cli = from_yaml({"optimizer": SGD, "lr_scheduler": schedule}, epochs=2)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 100)


@pytest.mark.parametrize("monitor", ["val/loss", "train/loss", "val/accuracy"])
def test_reduce_on_plateau_watches_the_chosen_metric(monitor: str, from_yaml: Run) -> None:
    schedule = {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
    cli = from_yaml({"optimizer": SGD, "lr_scheduler": schedule, "lr_scheduler_monitor": monitor})
    mode = "max" if monitor == "val/accuracy" else "min"
    assert cli.trainer.lr_scheduler_configs[0].scheduler.mode == mode  # type: ignore[union-attr]
    assert best(cli) == pytest.approx(cli.trainer.callback_metrics[monitor].item())


def test_lightnings_reduce_on_plateau_brings_its_own_monitor(from_yaml: Run) -> None:
    schedule = {
        "class_path": "lightning.pytorch.cli.ReduceLROnPlateau",
        "init_args": {"monitor": "train/accuracy"},
    }
    cli = from_yaml({"optimizer": SGD, "lr_scheduler": schedule})
    assert best(cli) == pytest.approx(cli.trainer.callback_metrics["train/accuracy"].item())


@pytest.mark.parametrize(
    "overlay",
    [
        {"lr_scheduler_monitor": "val/los"},
        {"lr_scheduler_monitor": "val/loss", "lr_scheduler_interval": "step"},  # not there yet
    ],
)
def test_an_unknown_monitor_ends_with_a_line_that_names_it(
    overlay: dict[str, Any], from_yaml: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    plateau = "torch.optim.lr_scheduler.ReduceLROnPlateau"
    with pytest.raises(SystemExit) as stop:
        from_yaml({"optimizer": SGD, "lr_scheduler": plateau, **overlay})
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert overlay["lr_scheduler_monitor"] in error
    assert "Traceback" not in error


def test_a_refused_schedule_ends_with_a_line(
    from_yaml: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = {
        "class_path": "torch.optim.lr_scheduler.OneCycleLR",
        "init_args": {"max_lr": 0.1, "pct_start": 7.0},
    }
    with pytest.raises(SystemExit) as stop:
        from_yaml({"lr_scheduler": schedule})
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "schedule refused its arguments" in error
    assert "pct_start" in error


# Losses and metrics, by hand.


@pytest.fixture(scope="module")
def data(data_root: Path) -> FashionMNISTDataModule:
    """Small splits that the batch sizes do not divide; 60 steps, more than metrics wait."""
    module = FashionMNISTDataModule(
        root=str(data_root), train_fraction=0.006, val_size=310, batch_size=6, eval_batch_size=128
    )
    module.setup()
    assert module.test_set is not None
    module.test_set.images = module.test_set.images[:700]
    module.test_set.labels = module.test_set.labels[:700]
    return module


def trainer(**options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **{"enable_progress_bar": False, **options},
    )


@pytest.fixture(scope="module")
def fitted(data: FashionMNISTDataModule) -> tuple[BaselineCNN, dict[str, float]]:
    """A smoothed and penalized network whose weights stay as they are, and what was logged."""
    torch.manual_seed(0)
    model = BaselineCNN(
        width=2, label_smoothing=0.3, l1=1e-3, l2=1e-2, optimizer=partial(torch.optim.SGD, lr=0.0)
    )
    run = trainer()
    run.fit(model, datamodule=data)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    return model.eval(), logged


def predicted(model: BaselineCNN, split: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of a whole split."""
    with torch.no_grad():
        return model(split.images), split.labels


def test_val_loss_is_plain_cross_entropy_over_the_whole_split(
    fitted: tuple[BaselineCNN, dict[str, float]], data: FashionMNISTDataModule
) -> None:
    model, logged = fitted
    logits, labels = predicted(model, data.val_set)
    chosen = logits.log_softmax(dim=1)[torch.arange(len(labels)), labels]
    assert logged["val/loss"] == pytest.approx(-chosen.mean().item(), rel=1e-5)
    share = (logits.argmax(dim=1) == labels).double().mean().item()
    assert logged["val/accuracy"] == pytest.approx(share)


def test_train_loss_has_smoothing_and_penalties_in_it(
    fitted: tuple[BaselineCNN, dict[str, float]], data: FashionMNISTDataModule
) -> None:
    model, logged = fitted
    logits, labels = predicted(model, data.train_set)
    target = F.one_hot(labels, 10) * 0.7 + 0.3 / 10
    loss = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    weights = [w.detach() for name, w in model.named_parameters() if w.ndim > 1]
    assert len(weights) == 4
    penalty = sum(1e-3 * w.abs().sum() + 1e-2 * w.pow(2).sum() for w in weights)
    assert logged["train/loss"] == pytest.approx((loss + penalty).item(), rel=1e-5)
    share = (logits.argmax(dim=1) == labels).double().mean().item()
    assert logged["train/accuracy"] == pytest.approx(share)


class Seen(Callback):
    """The images and labels of every training step."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)


@pytest.mark.parametrize("bar", [False, True])  # the bar reads the metrics early
@pytest.mark.parametrize("steps", [3, 53])
def test_training_metrics_of_a_run_that_ends_amid_an_epoch_are_those_of_its_steps(
    steps: int, bar: bool, data: FashionMNISTDataModule
) -> None:
    torch.manual_seed(0)
    model = BaselineCNN(width=2, optimizer=partial(torch.optim.SGD, lr=0.0))
    seen = Seen()
    run = trainer(
        max_steps=steps,
        callbacks=[seen, *([ProgressBar()] if bar else [])],
        enable_progress_bar=bar,
    )
    run.fit(model, datamodule=data)
    images, labels = (torch.cat(parts) for parts in zip(*seen.batches, strict=True))
    assert len(labels) == 6 * steps
    with torch.no_grad():
        logits = model(images)
    logged = {name: value.item() for name, value in run.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    share = (logits.argmax(dim=1) == labels).double().mean().item()
    assert logged["train/accuracy"] == pytest.approx(share)


@pytest.fixture(scope="module")
def tested(
    fitted: tuple[BaselineCNN, dict[str, float]], data: FashionMNISTDataModule
) -> dict[str, float]:
    run = trainer()
    run.test(fitted[0], datamodule=data, verbose=False)
    return {name: value.item() for name, value in run.callback_metrics.items()}


def test_metric_names_are_the_documented_ones(
    fitted: tuple[BaselineCNN, dict[str, float]], tested: dict[str, float]
) -> None:
    assert set(fitted[1]) == {
        *(f"{stage}/{name}" for stage in ("train", "val") for name in ("loss", "accuracy")),
    }
    assert set(tested) == {
        "test/loss",
        "test/accuracy",
        "test/f1_macro",
        "test/calibration_error",
        *(f"test/accuracy_class_{label}" for label in range(10)),
    }


def test_test_metrics_are_those_of_the_whole_test_set(
    fitted: tuple[BaselineCNN, dict[str, float]],
    tested: dict[str, float],
    data: FashionMNISTDataModule,
) -> None:
    logits, labels = predicted(fitted[0], data.test_set)
    answers = logits.argmax(dim=1)
    hits = answers == labels
    assert tested["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert tested["test/accuracy"] == pytest.approx(hits.double().mean().item())

    scores = []
    for label in range(10):
        of_class = labels == label
        recall = hits[of_class].double().mean().item()
        assert tested[f"test/accuracy_class_{label}"] == pytest.approx(recall)
        both = int((of_class & hits).sum())
        either = int(of_class.sum() + (answers == label).sum())
        scores.append(2 * both / either)
    assert tested["test/f1_macro"] == pytest.approx(sum(scores) / 10, rel=1e-5)

    confidence = logits.softmax(dim=1).max(dim=1).values
    bins = (confidence * 15).long()
    error = 0.0
    for number in bins.unique():
        inside = bins == number
        gap = hits[inside].double().mean() - confidence[inside].double().mean()
        error += (inside.double().mean() * gap.abs()).item()
    assert tested["test/calibration_error"] == pytest.approx(error, abs=1e-5)


def test_a_second_test_starts_from_nothing(
    fitted: tuple[BaselineCNN, dict[str, float]],
    tested: dict[str, float],
    data: FashionMNISTDataModule,
) -> None:
    run = trainer()
    run.test(fitted[0], datamodule=data, verbose=False)
    again = {name: value.item() for name, value in run.callback_metrics.items()}
    assert again == pytest.approx(tested)


def test_predictions_are_probabilities_in_the_order_of_the_test_set(
    fitted: tuple[BaselineCNN, dict[str, float]], data: FashionMNISTDataModule
) -> None:
    batches = trainer().predict(fitted[0], datamodule=data)
    assert batches is not None
    probabilities = torch.cat(batches)  # type: ignore[arg-type]
    logits, _ = predicted(fitted[0], data.test_set)
    assert torch.allclose(probabilities, logits.softmax(dim=1), atol=1e-6)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(700))


# Checkpoints and the last details.


def test_a_checkpoint_of_a_script_holds_no_code(
    data: FashionMNISTDataModule, tmp_path: Path
) -> None:
    run = trainer()
    model = OptimizedCNN(width=2, activation=nn.GELU, lr_scheduler=partial(lrs.StepLR, step_size=1))
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["width"] == 2
    assert "activation" not in checkpoint["hyper_parameters"]


def test_a_network_learns_with_a_few_hundred_images(data: FashionMNISTDataModule) -> None:
    torch.manual_seed(0)
    model = OptimizedCNN(width=8, dropout=0.0, optimizer=partial(torch.optim.Adam, lr=0.003))
    run = trainer()
    run.fit_loop.max_epochs = 8
    run.fit(model, datamodule=data)
    assert run.callback_metrics["val/accuracy"] > 0.6


@pytest.mark.parametrize(("name", "value"), [("l1", -0.1), ("l2", -1.0), ("l1", math.nan)])
def test_a_bad_penalty_is_refused_by_name(name: str, value: float) -> None:
    make: Callable[..., BaselineCNN] = BaselineCNN
    with pytest.raises(ValueError, match=f"{name} is {value}; expected at least 0"):
        make(**{name: value})
