"""A training inside this process: its configuration, its folder, what the pruner sees of it."""

import csv
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiment.main import quiet
from foundation.errors import UserError
from studies.training import EpochReport, FitCLI, complete_config, config_keys

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = f"--config={CONFIGS / 'mlp.yaml'}"
RATE = "model.init_args.optimizer.init_args.lr"


@pytest.fixture
def options(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three epochs of four batches of real images, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    quiet()
    return [
        BASE,
        f"--data.root={data_root}",
        "--data.train_fraction=0.02",
        "--data.val_size=500",
        "--model.hidden_size=8",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=3",
        "--trainer.limit_train_batches=4",
    ]


class After(optuna.pruners.BasePruner):
    """Prunes after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step == self.epoch


def ask(pruner: optuna.pruners.BasePruner | None = None) -> optuna.Trial:
    return optuna.create_study(direction="maximize", pruner=pruner).ask()


def curve(folder: Path, name: str) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


# A complete configuration.


def test_a_complete_configuration_makes_itself() -> None:
    once = complete_config([BASE, "--model.dropout=0.25", "--trainer.max_epochs=2"])
    assert complete_config([f"--config={once}"]) == once
    assert yaml.safe_load(once)["model"]["init_args"]["dropout"] == 0.25


def test_a_complete_configuration_depends_on_nothing_else(tmp_path: Path) -> None:
    overlay = tmp_path / "wide.yaml"
    overlay.write_text("model: {init_args: {hidden_size: 77}}\n")
    text = complete_config([BASE, f"--config={overlay}"])
    overlay.unlink()
    again = complete_config([f"--config={text}", "--model.dropout=0.5"])
    keys = config_keys(again)
    assert (keys["model.init_args.hidden_size"], keys["model.init_args.dropout"]) == (77, 0.5)


def test_keys_are_leaves_and_branches() -> None:
    keys = config_keys(complete_config([BASE]))
    assert keys[RATE] == 0.001
    assert keys["model.init_args.optimizer"]["class_path"] == "torch.optim.Adam"
    assert keys["model.class_path"] == "lightning_modules.MLP"
    assert keys["model.init_args.lr_scheduler"] is None  # there, though it is not set
    assert keys["trainer.max_epochs"] == 6
    assert "" not in keys


def test_an_invalid_option_is_refused() -> None:
    with pytest.raises(UserError, match=r"hidden_size.*int"):
        complete_config([BASE, "--model.hidden_size=abc"])


# A training.


def test_a_training_writes_into_its_folder_and_says_nothing(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study" / "trials" / "0007"
    watch = EpochReport("val/accuracy", max)
    hparams = {"lr": 0.001, "optimizer": '{"class_path": "torch.optim.Adam"}', "norm": None}
    cli = FitCLI(options, folder, [watch], hparams=hparams)
    assert capfd.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["study"]
    names = {path.name.partition(".tfevents")[0] for path in folder.rglob("*") if path.is_file()}
    assert names == {"metrics.csv", "summary.json", "events.out", "hparams.yaml"}
    assert json.loads((folder / "summary.json").read_text())["epochs"] == 3
    assert cli.run_summary.summary["epochs"] == 3
    assert cli.trainer.global_step == 12

    accuracies = curve(folder, "val/accuracy")
    assert len(accuracies) == 3
    assert watch.best == pytest.approx(max(accuracies))
    assert (watch.epochs, watch.stopped) == (3, False)

    events = EventAccumulator(str(folder)).Reload()
    tags = events.Tags()
    assert {"val/loss", "val/accuracy", "reached/val/accuracy"} <= set(tags["scalars"])
    assert events.Scalars("reached/val/accuracy")[-1].value == pytest.approx(watch.best)
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer" in plugin
    assert b"torch.optim.Adam" in plugin


def test_a_second_training_starts_clean(options: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    FitCLI(options, folder)
    (folder / "left_over.txt").write_text("of an interrupted trial")
    FitCLI([*options, "--trainer.max_epochs=1"], folder)
    assert not (folder / "left_over.txt").exists()
    assert len(curve(folder, "val/loss")) == 1
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_the_same_options_give_the_same_training(options: list[str], tmp_path: Path) -> None:
    losses = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        FitCLI([*options, "--trainer.max_epochs=1", f"--seed_everything={seed}"], tmp_path / name)
        losses.append(curve(tmp_path / name, "val/loss"))
    assert losses[0] == losses[1] != losses[2]


def test_a_training_that_is_kept_has_what_train_py_leaves(
    options: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "confirmation" / "winner" / "seed_0"
    short = ["--trainer.max_epochs=1", "--trainer.limit_test_batches=1"]
    cli = FitCLI([*options, *short], folder, keep=True)
    assert capfd.readouterr().out == ""
    assert {"config.yaml", "checkpoints", "summary.json"} <= {p.name for p in folder.iterdir()}
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert 0 < cli.run_summary.summary["test"]["test/accuracy"] <= 1


# What the pruner sees.


def test_every_epoch_is_reported_and_the_pruner_ends_the_training(
    options: list[str], tmp_path: Path
) -> None:
    watch = EpochReport("val/accuracy", max)
    trial = ask(After(2))
    watch.begin(trial)
    FitCLI(options, tmp_path / "run", [watch])
    reported = trial.study.trials[0].intermediate_values
    assert reported == pytest.approx(dict(enumerate(curve(tmp_path / "run", "val/accuracy"), 1)))
    assert list(reported) == [1, 2]  # and no third epoch
    assert (watch.epochs, watch.stopped) == (2, True)
    assert watch.best == max(reported.values())


def test_after_the_last_epoch_there_is_nothing_to_prune(options: list[str], tmp_path: Path) -> None:
    watch = EpochReport("val/loss", min)
    trial = ask(After(3))
    watch.begin(trial)
    FitCLI(options, tmp_path / "run", [watch])
    assert trial.study.trials[0].last_step == 3
    assert (watch.epochs, watch.stopped) == (3, False)
    assert watch.best == pytest.approx(min(curve(tmp_path / "run", "val/loss")))


def test_the_pruner_does_not_look_at_further_seeds(
    options: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    watch = EpochReport("val/accuracy", max)
    trial = ask(After(2))
    short = [*options, "--trainer.max_epochs=2"]
    watch.begin(trial)
    FitCLI([*short, "--seed_everything=1"], tmp_path / "a", [watch])
    reported = dict(trial.study.trials[0].intermediate_values)
    watch.begin(None)
    assert watch.best is None
    FitCLI([*short, "--seed_everything=2"], tmp_path / "b", [watch])
    assert trial.study.trials[0].intermediate_values == reported
    assert (watch.epochs, watch.stopped) == (4, False)
    assert watch.best == pytest.approx(max(curve(tmp_path / "b", "val/accuracy")))
    # A trial that runs again reports again, without a warning; what it had come to stays.
    watch.begin(trial)
    FitCLI([*short, "--seed_everything=2", "--trainer.max_epochs=1"], tmp_path / "b", [watch])
    again = trial.study.trials[0].intermediate_values
    assert again == {1: pytest.approx(curve(tmp_path / "b", "val/accuracy")[0]), 2: reported[2]}
    assert again[1] != reported[1]
    assert not [w for w in recwarn if "already reported" in str(w.message)]


def test_an_unknown_metric_is_named(options: list[str], tmp_path: Path) -> None:
    watch: Any = EpochReport("val/beauty", max)
    with pytest.raises(UserError, match=r"no metric val/beauty; this run has val/accuracy, val/lo"):
        FitCLI(options, tmp_path / "run", [watch])
