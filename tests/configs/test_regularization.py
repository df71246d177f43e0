"""What each regularization overlay does, against the formula by hand, on real data."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback
from torch import Tensor, nn

import train
from experiment.cli import ExperimentCLI
from foundation.checkout import technique

CONFIGS = Path(__file__).parents[2] / "configs"
Fit = Callable[..., ExperimentCLI]


class Steps(Callback):
    """Write down what each training step takes and makes."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.logits: list[Tensor] = []
        self.losses: list[float] = []
        self.before: list[dict[str, Tensor]] = []  # the weights
        self.after: list[dict[str, Tensor]] = []
        self.gradients: list[list[Tensor]] = []  # from the loss
        self.used: list[list[Tensor]] = []  # by the optimizer
        self.epoch_ends: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        [optimizer] = trainer.optimizers
        optimizer.register_step_post_hook(lambda *_: self.used.append(gradients(pl_module)))

        def keep(network: nn.Module, inputs: Any, logits: Tensor) -> None:
            if network.training:
                self.logits.append(logits.detach())

        pl_module.register_forward_hook(keep)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.batches.append(batch)
        self.before.append(copy.deepcopy(pl_module.state_dict()))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append(gradients(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())
        self.after.append(copy.deepcopy(pl_module.state_dict()))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epoch_ends.append(copy.deepcopy(pl_module.state_dict()))


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.fixture
def fit(quick_fit: Fit) -> Fit:
    """A short fit of a small baseline with some overlays on it.

    ``fit("l1", "batch_norm", "--model.l1=0.1", epochs=2)``; no run folder unless ``folder``.
    """

    def run(*args: str, folder: bool = False, **length: int) -> ExperimentCLI:
        overlays = [technique(arg) for arg in args if not arg.startswith("-")]
        return quick_fit(
            *(f"--config={path}" for path in (CONFIGS / "baseline_cnn.yaml", *overlays)),
            "--model.width=4",
            "--model.hidden_size=16",
            "--trainer.accelerator=cpu",
            "--trainer.precision=32-true",
            f"--trainer.callbacks+={__name__}.Steps",
            *([] if folder else ["--trainer.logger=false"]),
            *(arg for arg in args if arg.startswith("-")),
            **length,
        )

    return run


def steps(cli: ExperimentCLI) -> Steps:
    callbacks = cli.trainer.callbacks  # type: ignore[attr-defined]
    [callback] = [each for each in callbacks if isinstance(each, Steps)]
    return callback


def weights(state: dict[str, Tensor]) -> list[Tensor]:
    """The kernels and matrices: neither biases, nor norm parameters, nor buffers."""
    return [w for name, w in state.items() if name.endswith(".weight") and w.dim() > 1]


def plain(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with labels or with probabilities."""
    if not targets.is_floating_point():
        targets = F.one_hot(targets, 10).float()
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


def total(norm: int, factor: float) -> Callable[..., Tensor]:
    def loss(logits: Tensor, targets: Tensor, state: dict[str, Tensor]) -> Tensor:
        penalty = sum(float(w.double().abs().pow(norm).sum()) for w in weights(state))
        return plain(logits, targets) + factor * penalty

    return loss


def smoothed(logits: Tensor, targets: Tensor, state: dict[str, Tensor]) -> Tensor:
    spread = -logits.log_softmax(dim=1).mean()  # the cross-entropy with all classes alike
    return 0.9 * plain(logits, targets) + 0.1 * spread


def mixed(logits: Tensor, targets: Tensor, state: dict[str, Tensor]) -> Tensor:
    share, classes = targets.topk(2, dim=1)
    own, partners = (
        F.cross_entropy(logits, classes[:, i], reduction="none") * share[:, i] for i in (0, 1)
    )
    return (own + partners).mean()


# The training loss, and the validation loss beside it.


@pytest.mark.parametrize(
    ("args", "formula"),
    [
        (("label_smoothing",), smoothed),
        (("label_smoothing", "mixup"), smoothed),
        (("l1", "batch_norm"), total(1, 1e-5)),
        (("l1", "batch_norm", "--model.l1=0.1"), total(1, 0.1)),
        (("l2", "batch_norm"), total(2, 1e-4)),
        (("l2", "weight_decay", "--model.l2=0.1"), total(2, 0.1)),
        (("mixup",), mixed),
        (("cutmix",), mixed),
        (("mixup", "cutmix"), mixed),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else None,
)
def test_the_training_loss_is_the_formula_and_the_validation_loss_plain(
    fit: Fit, args: tuple[str, ...], formula: Callable[..., Tensor]
) -> None:
    cli = fit(*args)
    seen = steps(cli)
    assert len(seen.losses) == 4
    values = zip(seen.logits, seen.batches, seen.before, seen.losses, strict=True)
    for logits, (_, targets), state, loss in values:
        assert loss == pytest.approx(formula(logits, targets, state).item(), rel=1e-5)
    data = cli.datamodule.val_set
    with torch.no_grad():
        logits = cli.model.eval()(data.images[:250])
    assert cli.trainer.callback_metrics["val/loss"].item() == pytest.approx(
        plain(logits, data.labels[:250]).item(), rel=1e-5
    )


# Penalties and decay.


def test_l1_drives_weights_to_zero_and_l2_makes_the_large_ones_smaller(fit: Fit) -> None:
    def of(*args: str) -> Tensor:
        cli = fit(*args, "--model.optimizer.lr=0.003", batches=20)
        return torch.cat([w.flatten().abs() for w in weights(cli.model.state_dict())])

    neither, l1, l2 = of(), of("l1", "--model.l1=0.01"), of("l2", "--model.l2=0.1")
    assert l1.sum() < 0.7 * neither.sum()
    assert l2.square().sum() < 0.7 * neither.square().sum()
    near_zero = [(w < 0.003).float().mean().item() for w in (neither, l2, l1)]
    assert near_zero[2] > 3 * near_zero[0]
    assert near_zero[2] > 1.5 * near_zero[1]


@pytest.mark.parametrize(
    ("overlays", "decay", "shrunk"),
    [
        (("adamw",), 0.05, lambda w: w * (1 - 0.001 * 0.05)),
        (("adamw", "weight_decay"), 1e-4, lambda w: w * (1 - 0.001 * 1e-4)),
        # Adam divides the decay by its own size: every weight takes a whole step towards 0.
        (("weight_decay",), 1e-4, lambda w: w - 0.001 * w.sign()),
        (("sgd", "weight_decay"), 1e-4, lambda w: w * (1 - 0.05 * 1e-4)),
        (("adam",), 0.0, lambda w: w),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_decay_moves_a_weight_without_gradient(
    fit: Fit, overlays: tuple[str, ...], decay: float, shrunk: Callable[[Tensor], Tensor]
) -> None:
    cli = fit(*overlays, batches=1)
    [running] = cli.trainer.optimizers
    assert [group["weight_decay"] for group in running.param_groups] == [decay]
    weight = nn.Parameter(torch.tensor([2.0, -0.5, 0.3, -1.0]))
    expected = shrunk(weight.detach().double())
    optimizer = cli.model.make_optimizer([weight])
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    # Adam's epsilon shortens its steps a little.
    torch.testing.assert_close(weight.detach().double(), expected, atol=2e-6, rtol=1e-7)


# Dropout.


def test_dropout_drops_its_share_in_training_and_nothing_in_evaluation(fit: Fit) -> None:
    cli = fit("dropout", "--model.hidden_size=64")
    [dropout] = [m for m in cli.model.modules() if isinstance(m, nn.Dropout)]
    seen: list[tuple[Tensor, Tensor]] = []
    dropout.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    images = cli.datamodule.train_set.images[:500]
    with torch.no_grad():
        cli.model.train()
        assert not torch.equal(cli.model(images), cli.model(images))
        cli.model.eval()
        assert torch.equal(cli.model(images), cli.model(images))
    for given, dropped in seen[:2]:
        alive = given != 0
        assert (dropped[alive] == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
        assert torch.equal(dropped[dropped != 0], 2 * given[dropped != 0])
        masks = (dropped == 0)[alive.all(dim=1)]
        assert len(masks) == 0 or len(masks.unique(dim=0)) == len(masks)  # each image its own
    for given, kept in seen[2:]:
        assert torch.equal(given, kept)


def test_dropout_acts_in_the_run(fit: Fit) -> None:
    with_it, without = (steps(fit(*args)).losses for args in (("dropout",), ()))
    assert all(a != b for a, b in zip(with_it, without, strict=True))


# Early stopping.


def test_early_stopping_ends_a_run_that_gets_worse_and_keeps_the_best(
    fit: Fit, tmp_path: Path
) -> None:
    # After two epochs the rate turns negative: from there the loss rises.
    uphill = ("MultiStepLR", "MultiStepLR.milestones=[2]", "MultiStepLR.gamma=-1")
    scheduler = [f"--model.lr_scheduler{arg.removeprefix('MultiStepLR')}" for arg in uphill[1:]]
    cli = fit(
        "early_stopping",
        "--model.optimizer=SGD",
        "--model.optimizer.lr=0.05",
        f"--model.lr_scheduler={uphill[0]}",
        *scheduler,
        "--test_best=false",
        folder=True,
        epochs=12,
    )
    assert cli.trainer.current_epoch == 2 + 3
    [best] = tmp_path.rglob("best.ckpt")
    saved = torch.load(best, weights_only=True)
    assert saved["epoch"] == 1
    expected = steps(cli).epoch_ends[1]
    assert all(torch.equal(saved["state_dict"][name], expected[name]) for name in expected)
    assert cli.run_summary.summary["best"]["epoch"] == 2


# Gradient clipping. The penalty makes the gradients long.

LONG = "--model.l2=1"


def test_clip_norm_shortens_long_gradients_and_keeps_their_direction(fit: Fit) -> None:
    seen = steps(fit("clip_norm", LONG))
    assert len(seen.used) == len(seen.gradients) == 4
    for raw, used in zip(seen.gradients, seen.used, strict=True):
        flat = torch.cat([g.flatten() for g in raw])
        assert flat.norm() > 1
        clipped = torch.cat([g.flatten() for g in used])
        assert torch.allclose(clipped, flat / flat.norm(), atol=1e-5)


def test_clip_norm_leaves_short_gradients_alone(fit: Fit) -> None:
    seen = steps(fit("clip_norm", "--trainer.gradient_clip_val=1e6"))
    for raw, used in zip(seen.gradients, seen.used, strict=True):
        assert all(torch.equal(r, u) for r, u in zip(raw, used, strict=True))


def test_clip_value_cuts_every_component(fit: Fit) -> None:
    seen = steps(fit("clip_value", LONG))
    assert len(seen.used) == len(seen.gradients) == 4
    for raw, used in zip(seen.gradients, seen.used, strict=True):
        assert max(g.abs().max().item() for g in raw) > 0.1
        for r, u in zip(raw, used, strict=True):
            assert torch.equal(u, r.clamp(-0.1, 0.1))


# Mixing.


@pytest.mark.parametrize("overlay", ["mixup", "cutmix"])
def test_mixing_gives_training_batches_soft_labels(fit: Fit, overlay: str) -> None:
    seen = steps(fit(overlay))
    for images, targets in seen.batches:
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        assert targets.shape == (len(images), 10)
        assert torch.allclose(targets.sum(dim=1), torch.ones(len(images)))
        soft = (targets > 0).sum(dim=1) == 2
        assert 0.3 < soft.float().mean() < 1  # some partners are of the same class
        assert ((targets > 0).sum(dim=1) <= 2).all()


def test_mixup_and_cutmix_compose_by_turns(fit: Fit) -> None:
    cli = fit("mixup", "cutmix", batches=16)
    assert [type(each).__name__ for each in cli.datamodule.mixing] == ["MixUp", "CutMix"]
    pasted = []
    for images, _ in steps(cli).batches:
        levels = images * 255  # pasting keeps the gray levels, blending does not
        pasted.append(bool((levels - levels.round()).abs().max() < 1e-3))
    assert 3 <= sum(pasted) <= 13


# Averages of the weights.


def ema(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    average = {name: w.double() for name, w in states[0].items()}
    for state in states[1:]:
        average = {name: 0.99 * w + 0.01 * state[name].double() for name, w in average.items()}
    return average


def assert_same(state: dict[str, Tensor], expected: dict[str, Tensor], names: list[str]) -> None:
    for name in names:
        torch.testing.assert_close(state[name].double(), expected[name], atol=1e-6, rtol=1e-4)


def learned(cli: ExperimentCLI) -> list[str]:
    """The parameters, and batch norm's running statistics."""
    running = [name for name in cli.model.state_dict() if "running" in name]
    assert running
    return [*(name for name, _ in cli.model.named_parameters()), *running]


def loss_of(network: nn.Module, state: dict[str, Tensor], images: Tensor, labels: Tensor) -> float:
    network = copy.deepcopy(network).eval()
    network.load_state_dict(state)
    with torch.no_grad():
        return plain(network(images[:250]), labels[:250]).item()


def assert_average_is_used(cli: ExperimentCLI, expected: dict[str, Tensor], tmp_path: Path) -> None:
    """The average is what is left, saved, validated and tested, here and by a later command."""
    seen, names = steps(cli), learned(cli)
    raw = seen.after[-1]
    assert any((raw[name].double() - expected[name]).abs().max() > 1e-3 for name in names)
    last = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)["state_dict"]
    best_path = next(tmp_path.rglob("best.ckpt"))
    best = torch.load(best_path, weights_only=True)
    assert_same(last, expected, names)
    val, test = cli.datamodule.val_set, cli.datamodule.test_set
    results = cli.run_summary.summary
    assert results["final"]["val/loss"] == pytest.approx(
        loss_of(cli.model, last, val.images, val.labels), rel=1e-4
    )
    of_best = loss_of(cli.model, best["state_dict"], test.images, test.labels)
    assert results["test"]["test/loss"] == pytest.approx(of_best, rel=1e-4)
    again = train.main(["test", f"--ckpt_path={best_path}", "--trainer.logger=false"])
    assert again.trainer.callback_metrics["test/loss"].item() == pytest.approx(of_best, rel=1e-4)


def test_ema_is_validated_saved_and_tested(fit: Fit, tmp_path: Path) -> None:
    cli = fit("ema", "batch_norm", "--model.optimizer.lr=0.01", folder=True, epochs=2)
    expected = ema(steps(cli).after)
    assert_average_is_used(cli, expected, tmp_path)


def test_swa_averages_the_last_epochs_and_is_validated_saved_and_tested(
    fit: Fit, tmp_path: Path
) -> None:
    cli = fit("swa", "batch_norm", "--model.optimizer.lr=0.01", folder=True, epochs=8, batches=2)
    seen = steps(cli)
    assert len(seen.epoch_ends) == 8
    ends = [{name: w.double() for name, w in seen.epoch_ends[epoch].items()} for epoch in (6, 7)]
    expected = {name: (ends[0][name] + ends[1][name]) / 2 for name in ends[0]}
    assert_average_is_used(cli, expected, tmp_path)


def test_training_itself_goes_on_with_the_raw_weights(fit: Fit) -> None:
    raw, by_ema, by_swa = (
        steps(fit(*args, epochs=2, batches=2)) for args in ((), ("ema",), ("swa",))
    )
    assert by_ema.losses == by_swa.losses == raw.losses
