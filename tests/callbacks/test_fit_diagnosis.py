"""The diagnosis on made-up curves, on real runs, and on runs that are finished."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typing_extensions import override

import train
from callbacks import FitDiagnosis
from datamodules import FashionMNISTDataModule, ImageDataModule
from datamodules.image_dataset import ImageDataset
from diagnosis import finished_runs
from diagnosis.curves import CURVES, read_curves
from diagnosis.diagnosis import Diagnosis, diagnose
from diagnosis.reference import nearest_mean_accuracy
from diagnosis.suggestions import Suggestion
from experiment import cli
from experiment.cli import ExperimentCLI
from foundation.checkout import technique
from foundation.errors import UserError
from foundation.run_folder import program

REPOSITORY = Path(__file__).parents[2]
CONFIG = yaml.safe_load((REPOSITORY / "configs" / "baseline_cnn.yaml").read_text())


def curves(
    train_accuracy: Sequence[float], val_accuracy: Sequence[float], val_loss: Sequence[float]
) -> dict[str, Sequence[float]]:
    train_loss = [-math.log(max(accuracy, 0.01)) for accuracy in train_accuracy]
    return dict(zip(CURVES, (train_loss, train_accuracy, val_loss, val_accuracy), strict=True))


def towards(start: float, end: float, epochs: int = 12) -> list[float]:
    """Halfway nearer to ``end`` with every epoch."""
    return [end + (start - end) * 0.5**epoch for epoch in range(epochs)]


LEARNED = curves(towards(0.7, 0.93), towards(0.75, 0.9), towards(0.7, 0.28))
MEMORIZED = curves(towards(0.7, 1.0), towards(0.7, 0.8), [0.6, 0.5, *towards(0.55, 0.9, 10)])
BY_GAP = curves(towards(0.7, 1.0), towards(0.7, 0.8), towards(0.8, 0.6))
LOW = curves(towards(0.3, 0.56), towards(0.3, 0.55), towards(2.0, 1.2))
JUMPING = curves(towards(0.7, 0.85), [0.7, 0.8] * 6, [0.8, 0.6] * 6)
CHANCE = curves([0.1, 0.11] * 5, [0.1, 0.1] * 5, [2.3] * 10)
BROKEN = curves([0.3, 0.1], [0.3, math.nan], [2.0, math.nan])


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        (LEARNED, "good fit", ["0.900", "0.930", "0.690"]),
        (MEMORIZED, "overfitting", ["val/loss ends", "0.500 in epoch 2"]),
        (BY_GAP, "overfitting", ["train/accuracy ends at 0.99", "val/accuracy at 0.8"]),
        (LOW, "underfitting", ["best accuracy is 0.550", "in training 0.560", "flat at 1.2"]),
        (JUMPING, "oscillating", ["by 0.100 after epoch 2", "best was 0.800 in epoch 2"]),
        (CHANCE, "not converging", ["ends at 0.100", "chance is 0.100", "can be learned"]),
        (BROKEN, "not converging", ["no number in epoch 2"]),
    ],
)
def test_kinds(shape: dict[str, Sequence[float]], kind: str, words: list[str]) -> None:
    found = diagnose(shape, 10, 0.69)
    assert found.kind == kind
    for word in words:
        assert word in "; ".join(found.evidence)


def test_low_is_relative_to_the_data() -> None:
    """The accuracy that is poor where class means get 0.8 is good where they get 0.3."""
    shape = curves(towards(0.5, 0.82), towards(0.5, 0.8), towards(1.0, 0.6))
    assert diagnose(shape, 10, 0.8).kind == "underfitting"
    assert diagnose(shape, 10, 0.3).kind == "good fit"


def test_without_a_reference_one_is_assumed() -> None:
    found = diagnose(LOW, 10, None)
    assert found.kind == "underfitting"
    assert "0.730 (assumed)" in found.evidence[0]


def test_chance_depends_on_the_number_of_classes() -> None:
    shape = curves([0.5] * 6, [0.5] * 6, [0.7] * 6)
    assert diagnose(shape, 2, 0.8).kind == "not converging"
    assert diagnose(shape, 10, 0.8).kind == "underfitting"


def test_wrong_labels_are_memorized() -> None:
    found = diagnose(curves(towards(0.1, 0.9), [0.1] * 12, towards(2.3, 4.0)), 10, 0.1)
    assert found.kind == "not converging"
    assert any("memorizes" in text for text in found.evidence)
    assert any("labels do not belong" in text for text in found.evidence)
    assert "labels" in found.advice[0].why
    assert found.advice[0].options == ""


@pytest.mark.parametrize("epochs", [1, 2])
def test_short_runs_say_what_they_cannot_show(epochs: int) -> None:
    fine = curves(towards(0.8, 0.95), towards(0.85, 0.9), towards(0.5, 0.3))
    short = {name: values[:epochs] for name, values in fine.items()}
    found = diagnose(short, 10, 0.69)
    assert found.kind == "good fit"
    assert "too short to show overfitting or oscillation" in found.evidence[-1]
    short = {name: values[:epochs] for name, values in LOW.items()}
    low = diagnose(short, 10, 0.69, config=CONFIG)
    assert low.kind == "underfitting"
    assert "--trainer.max_epochs" in low.advice[0].options


def test_perfect_and_constant_curves_divide_by_nothing() -> None:
    assert diagnose(curves([1.0] * 4, [1.0] * 4, [0.0] * 4), 10, 1.0).kind == "good fit"


@pytest.mark.parametrize("name", CURVES)
def test_curves_of_different_lengths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="one value per epoch"):
        diagnose({**LEARNED, name: []}, 10, 0.69)


# Advice.


def advice(shape: dict[str, Sequence[float]], **changes: Any) -> list[Suggestion]:
    """For the baseline's configuration, completed, with changes to the model or the data."""
    config = json.loads(json.dumps(CONFIG))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    model |= {"width": 32, "depth": 2, "hidden_size": 128, "activation": "torch.nn.ReLU"}
    model |= {"norm": None, "dropout": 0.0, "lr_scheduler": None, "initializer": None}
    model["optimizer"]["init_args"]["weight_decay"] = 0.0
    data |= {"train_fraction": 1.0, "augmentation": None}
    config["early_stopping"] = {"patience": 10}
    config["trainer"] |= {"gradient_clip_val": None, "callbacks": None}
    for path, value in changes.items():
        node = config
        *parents, name = path.split("__")
        for parent in parents:
            node = node.get("init_args", node)[parent]
        node.get("init_args", node)[name] = value
    return diagnose(shape, 10, 0.69, config=config).advice


def overlays(found: list[Suggestion]) -> list[str]:
    return [Path(r.options.split()[-1]).stem for r in found if "--config" in r.options]


def options(found: list[Suggestion]) -> list[str]:
    return [r.options for r in found]


def test_advice_against_overfitting() -> None:
    found = advice(MEMORIZED)
    wanted = ["flip", "affine", "dropout", "weight_decay", "early_stopping"]
    assert overlays(found) == wanted
    assert "--trainer.max_epochs 2" in options(found)
    assert "--model.optimizer.lr 0.000333333" in options(found)
    assert options(advice(MEMORIZED, data__train_fraction=0.1))[0] == "--data.train_fraction 1"


def test_what_is_in_force_is_not_advised() -> None:
    flip = [{"class_path": "kornia.augmentation.RandomHorizontalFlip"}]
    there = {"model__dropout": 0.2, "data__augmentation": flip, "early_stopping__patience": 3}
    there |= {"model__optimizer__weight_decay": 0.1}
    assert overlays(advice(MEMORIZED, **there)) == ["affine"]
    assert "batch_norm" in overlays(advice(CHANCE))
    assert "batch_norm" not in overlays(advice(CHANCE, model__norm="layer"))
    there = {"model__lr_scheduler": {"class_path": "OneCycleLR", "init_args": {"max_lr": 0.1}}}
    found = advice(JUMPING, **there, trainer__gradient_clip_val=1.0)
    assert overlays(found) == ["ema"]
    assert options(found)[0] == "--model.lr_scheduler.max_lr 0.001"


def test_no_flips_for_digits_and_no_augmentation_for_damaged_images() -> None:
    config = {**CONFIG, "data": {"class_path": "datamodules.MNISTDataModule", "init_args": {}}}
    found = diagnose(MEMORIZED, 10, 0.69, config=config).advice
    assert "affine" in overlays(found)
    assert "flip" not in overlays(found)
    assert not {"flip", "affine"} & set(overlays(advice(MEMORIZED, data__missing_fraction=0.1)))


def test_advice_against_underfitting() -> None:
    assert overlays(advice(LOW)) == ["wider", "deeper", "batch_norm"]
    assert options(advice(LOW))[-1] == "--model.optimizer.lr 0.003"
    slow = options(advice(LOW, model__optimizer__lr=1e-5))
    assert slow[0] == "--model.optimizer.lr 0.001"
    strict = options(advice(LOW, model__l2=0.1, model__dropout=0.9, model__activation="nn.Tanh"))
    assert strict[:2] == ["--model.l2 0", "--model.dropout 0.1"]
    assert "--model.activation torch.nn.ReLU" in strict
    assert "--model.hidden_size 128" in options(advice(LOW, model__hidden_size=4))


def test_advice_against_no_convergence() -> None:
    bad = {"model__initializer": {"class_path": "lightning_modules.Gaussian"}}
    found = advice(CHANCE, **bad, model__optimizer__lr=1.0, model__preprocessing=None)
    assert options(found)[0] == "--model.optimizer.lr 0.001"
    assert overlays(found) == ["init_he_normal", "batch_norm", "min_max", "clip_norm"]


@pytest.mark.parametrize("shape", [LEARNED, MEMORIZED, LOW, JUMPING, CHANCE, BROKEN])
def test_advice_without_a_configuration(shape: dict[str, Sequence[float]]) -> None:
    for suggestion in diagnose(shape, 10, 0.69).advice:
        assert "optimizer" not in suggestion.options


def test_every_overlay_that_is_advised_exists() -> None:
    source = (REPOSITORY / "diagnosis" / "suggestions.py").read_text()
    names = re.findall(r'self\.overlay\([^()]*, "([\w/]+)"\s*\)', source)
    assert len(names) > 10
    for name in names:
        assert (REPOSITORY / "configs" / "techniques" / f"{name}.yaml").is_file()


# The nearest class mean.


class Points(ImageDataModule):
    """Images of one pixel: dark ones, bright ones, and a class without any."""

    class_names = ("dark", "bright", "never")

    def __init__(self, train_values: list[int], val_values: list[int]) -> None:
        super().__init__(val_size=1)
        self.train_set, self.val_set = (
            ImageDataset(
                torch.tensor(values, dtype=torch.uint8)[:, None, None, None],
                torch.tensor([int(value > 100) for value in values]),
            )
            for values in (train_values, val_values)
        )


def test_nearest_mean() -> None:
    # Means 15 and 205: the border is at 110, and 105 is bright but nearer to the dark ones.
    data = Points([10, 20, 200, 210], [0, 50, 105, 255])
    assert nearest_mean_accuracy(data) == 0.75
    assert nearest_mean_accuracy(Points([10, 200], [])) is None
    assert nearest_mean_accuracy(object()) is None


def test_nearest_mean_of_real_images_leaves_random_numbers_alone(data_root: Path) -> None:
    data = FashionMNISTDataModule(str(data_root), val_size=1000, train_fraction=0.1)
    data.setup("fit")
    before = torch.get_rng_state()
    assert nearest_mean_accuracy(data) == pytest.approx(0.68, abs=0.02)
    assert torch.equal(torch.get_rng_state(), before)


# Real runs.

SMALL = ("--model=MLP", "--model.preprocessing=MinMaxScaling", "--data.val_size=1000")
MEMORIZING = (*SMALL, "--data.train_fraction=0.0034", "--data.batch_size=32")


@pytest.fixture(scope="module")
def memorized(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """The run of a network that memorized 200 images; shared."""
    runs = tmp_path_factory.mktemp("diagnosis") / "runs"
    args = [*MEMORIZING, "--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    args += ["--trainer.max_epochs=12", "--trainer.limit_test_batches=1", f"--runs_dir={runs}"]
    train.main(["fit", *args, "--model.optimizer.lr=0.002", "--trainer.enable_progress_bar=false"])
    return runs / "MLP" / "version_0"


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_overfitting_is_found_and_written(memorized: Path) -> None:
    written = summary(memorized)
    assert written["diagnosis"]["kind"] == "overfitting"
    assert written["nearest_mean_accuracy"] == pytest.approx(0.65, abs=0.04)
    assert written["diagnosis"]["advice"][0]["options"] == "--data.train_fraction 1"
    assert {"best", "final", "test"} <= set(written)  # beside what was there
    events = EventAccumulator(str(memorized))
    events.Reload()
    (tag,) = [tag for tag in events.Tags()["tensors"] if tag.startswith("diagnosis")]
    text = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert "**overfitting**" in text
    assert f"--config {memorized / 'config.yaml'} --data.train_fraction 1`" in text


def test_high_rate_is_found_and_the_table_says_what_to_try(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rate = ["--model.optimizer=SGD", "--model.optimizer.lr=0.03", "--model.optimizer.momentum=0.99"]
    args = [*SMALL, *rate, "--data=FashionMNISTDataModule", f"--data.root={data_root}"]
    args += ["--data.train_fraction=0.05", "--trainer.max_epochs=10", "--test_best=false"]
    train.main(["fit", *args, "--trainer.enable_progress_bar=false"])
    printed = capsys.readouterr().out
    found = summary(Path("runs/MLP/version_0"))["diagnosis"]
    assert found["kind"] == "oscillating"
    table = re.sub(r"\s+", " ", printed)
    assert f"diagnosis oscillating: {found['evidence'][0][:20]}" in table
    commands = re.findall(rf"^  {program('train.py')} fit (.*)$", printed, re.MULTILINE)
    assert len(commands) == 3
    assert "momentum" in commands[1]
    # A command that was printed runs.
    scheduled = shlex.split(commands[2])
    assert scheduled[-1] == str(technique("cosine_lr"))
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    train.main(["fit", *scheduled, *limits, "--trainer.enable_progress_bar=false"])
    schedule = yaml.safe_load(Path("runs/MLP/version_1/config.yaml").read_text())["model"]
    assert "CosineAnnealingLR" in schedule["init_args"]["lr_scheduler"]["class_path"]


def test_every_command_is_accepted(memorized: Path, tmp_path: Path) -> None:
    """Each piece of advice, of any kind, upon a real run's configuration."""
    config = yaml.safe_load((memorized / "config.yaml").read_text())
    config["model"]["init_args"] |= {"dropout": 0.5, "l2": 0.1}
    config["data"]["init_args"]["augmentation"] = [
        {"class_path": "kornia.augmentation.RandomErasing", "init_args": {"p": 0.5}}
    ]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    from studies.training import complete_config

    for shape in (LEARNED, MEMORIZED, LOW, JUMPING, CHANCE):
        commands = [r.command(str(path)) for r in diagnose(shape, 10, 0.69, config=config).advice]
        assert len(commands) > 2
        start = f"{program('train.py')} fit --config {path} "
        assert all(command.startswith(start) for command in commands)
        options = " ".join(command.removeprefix(start) for command in commands)
        complete_config(["--config", str(path), *shlex.split(options)])


def test_a_loss_that_breaks_is_not_converging(
    quick_fit: Callable[..., Any], tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        quick_fit(*SMALL, "--model.optimizer=SGD", "--model.optimizer.lr=1e10")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "diagnosis: not converging, the loss was no number in epoch 1"
    run = tmp_path / "runs" / "MLP" / "version_0"
    written = summary(run)
    assert written["diagnosis"]["kind"] == "not converging"
    assert written["diagnosis"]["advice"][0]["options"] == "--model.optimizer.lr 0.02"
    assert "learning rate 1e+10" in written["error"]
    assert "no number in epoch 1" in finished_runs.report(run)


def test_runs_without_validation_get_none(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path
) -> None:
    cli = quick_fit("--model=MLP", "--data.val_size=0")
    assert "diagnosis" not in cli.run_summary.summary
    run = tmp_path / "runs" / "MLP" / "version_0"
    assert finished_runs.report(run) == f"{run}: no diagnosis, nothing was validated"


def test_the_tutorials_recipe_validates_nothing_and_tests_its_last_weights(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path
) -> None:
    cli = quick_fit("--config=configs/tutorial/optimized_cnn.yaml")
    assert cli.datamodule.sizes == {"train": 60_000, "val": 0, "test": 10_000}
    assert cli.run_summary.summary["test"]["test/accuracy"] > 0
    run = tmp_path / "runs" / "tutorial" / "optimized_cnn" / "version_0"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert finished_runs.report(run) == f"{run}: no diagnosis, nothing was validated"


def test_random_numbers_and_results_are_as_without_it(
    quick_fit: Callable[..., ExperimentCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ends(FitDiagnosis):
        states: list[torch.Tensor] = []  # noqa: RUF012  (of the test)

        @override
        def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.states.append(torch.get_rng_state())
            super().on_fit_end(trainer, pl_module)
            self.states.append(torch.get_rng_state())

    monkeypatch.setattr(cli, "FitDiagnosis", Ends)
    first = quick_fit(*SMALL, "--test_best=false").run_summary.summary
    assert "diagnosis" in first
    monkeypatch.setattr(FitDiagnosis, "on_fit_start", lambda *_: None)
    monkeypatch.setattr(FitDiagnosis, "on_fit_end", lambda *_: None)
    second = quick_fit(*SMALL, "--test_best=false").run_summary.summary
    assert second["final"] == {**first["final"], **_speed(second)}
    assert all(torch.equal(state, Ends.states[0]) for state in Ends.states)


def _speed(summary: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in summary["final"].items() if k == "train/images_per_second"}


# Runs that are finished.


def test_old_runs_get_the_same_diagnosis(memorized: Path, tmp_path: Path) -> None:
    written = summary(memorized)
    old = Path(shutil.copytree(memorized, tmp_path / "old"))
    assert as_written(finished_runs.diagnose_run(old)) == written["diagnosis"]
    kept = {k: v for k, v in written.items() if k not in ("diagnosis", "nearest_mean_accuracy")}
    (old / "summary.json").write_text(json.dumps(kept))
    assert as_written(finished_runs.diagnose_run(old)) == written["diagnosis"]  # from the data
    (old / "summary.json").unlink()
    assert as_written(finished_runs.diagnose_run(old))["kind"] == "overfitting"


def as_written(found: Diagnosis | None) -> Any:
    assert found is not None
    return json.loads(json.dumps(found.as_dict()))


def test_without_the_data_a_reference_is_assumed(memorized: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(memorized, tmp_path / "old"))
    (old / "summary.json").unlink()
    config = yaml.safe_load((old / "config.yaml").read_text())
    config["data"]["init_args"]["root"] = str(tmp_path / "nowhere")
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    assert as_written(finished_runs.diagnose_run(old))["kind"] == "overfitting"
    config["data"]["class_path"] = "no.such.DataModule"
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="does not say how many classes"):
        finished_runs.diagnose_run(old)
    config["model"]["init_args"]["num_classes"] = 10  # as older runs say
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    assert as_written(finished_runs.diagnose_run(old))["kind"] == "overfitting"
    assert not (tmp_path / "nowhere").exists()


def test_command_on_a_folder_of_runs(memorized: Path, tmp_path: Path) -> None:
    shutil.copytree(memorized, tmp_path / "runs" / "b")
    shutil.copytree(memorized, tmp_path / "runs" / "deep" / "a")
    command = [sys.executable, "train.py", "diagnose", str(tmp_path / "runs")]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=True
    )
    assert process.stderr == ""
    for run in ("b", "deep/a"):
        assert f"{tmp_path / 'runs' / run}: overfitting" in process.stdout
        config = tmp_path / "runs" / run / "config.yaml"
        overlay = "configs/techniques/regularization/dropout.yaml"
        line = f"python train.py fit --config {config} --config {overlay}"
        assert line in process.stdout


def test_a_resumed_run_counts_its_later_values(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = ["epoch,step,lr," + ",".join(CURVES), ",3,0.1,,,,"]
    rows += [f"{epoch},{epoch},,1,0.5,1,0.{epoch}" for epoch in (1, 2, 3, 4)]
    rows += ["2,2,,1,0.5,,", "2,2,,,,1,0.9", "3,3,,1,0.6,,"]  # epoch 3 is not validated yet
    path.write_text("\n".join(rows))
    assert read_curves(path)["val/accuracy"] == [0.1, 0.9]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: shutil.rmtree(run), "no such folder"),
        (lambda run: [file.unlink() for file in run.glob("*.*")], "holds no run"),
        (lambda run: (run / "config.yaml").unlink(), "config.yaml: there is no such file"),
        (lambda run: (run / "config.yaml").write_text("model: {}"), "not the configuration"),
        (lambda run: (run / "config.yaml").write_text("a: [b"), "config.yaml: broken"),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json: broken"),
        (lambda run: (run / "summary.json").write_text("[]"), "expected keys and values"),
        (lambda run: (run / "metrics.csv").write_text("epoch,val/loss\n1,x"), "not the curves"),
        (lambda run: (run / "metrics.csv").write_bytes(b"\xff\xfe\x00"), "not the curves"),
    ],
)
def test_broken_runs_are_one_line(
    memorized: Path, tmp_path: Path, capsys: Any, damage: Callable[[Path], Any], words: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(memorized, run)
    damage(run)
    with pytest.raises(SystemExit) as stop:
        finished_runs.main([str(run), str(memorized)])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert words in said.err
    assert str(run) in said.err
    assert f"{memorized}: overfitting" in said.out  # the others get theirs
