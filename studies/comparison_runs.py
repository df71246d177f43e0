"""How one run of a comparison is trained and measured."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from callbacks import Throughput
from callbacks.peak_memory import PeakMemory
from studies.comparison import Definition
from studies.paired_statistics import Comparison, Run
from studies.queue import Queue
from studies.training import FitCLI
from studies.trials import Outcome, Runner

# So many training images tell the training accuracy to a few thousandths.
_MOST_IMAGES = 10_000
_BATCH = 1000


class ComparisonRunner(Runner):
    """Train a variant under a seed, test its best checkpoint, and measure what it cost.

    The queue's trials have the parameters ``group``, ``variant`` and ``seed``. A run is the folder
    ``runs/<group>/<variant>/seed_<seed>``.
    """

    def __init__(
        self, definition: Definition, queue: Queue, folder: Path, again: Sequence[str]
    ) -> None:
        super().__init__(queue, folder, again)
        self.definition = definition

    def _values(self, trial_id: int) -> dict[str, Any]:
        return self.queue.storage.get_trial(trial_id).system_attrs["fixed_params"]

    def run_folder(self, trial_id: int) -> Path:
        values = self._values(trial_id)
        return Path(
            self.folder, "runs", values["group"], values["variant"], f"seed_{values['seed']}"
        )

    def prepare(self, trial_id: int) -> None:
        values = self._values(trial_id)
        self.queue.storage.set_trial_user_attr(trial_id, "values", values)

    def train(self, trial_id: int, *, child: bool = False) -> Outcome:
        values = self._values(trial_id)
        config = self.definition.configs[f"{values['group']}/{values['variant']}"]
        memory = PeakMemory()
        run = self.run_folder(trial_id)
        cli = FitCLI(
            [f"--config={config}", f"--seed_everything={values['seed']}"],
            run,
            [memory],
            keep=True,
            child=child,
        )
        summary = cli.run_summary.summary
        measured = {name: value for name, value in summary["test"].items() if value is not None}
        measured |= {name: summary["best"][name] for name in ("val/accuracy", "val/loss")}
        measured |= {
            "train_accuracy": _training_accuracy(cli),
            "best_epoch": summary["best"]["epoch"],
            "epochs": summary["epochs"],
            "parameters": summary["parameters"],
        }
        (speed,) = (c for c in cli.trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
        measured["seconds_per_epoch"] = speed.seconds / summary["epochs"]
        if memory.peak is not None:
            measured["peak_memory"] = memory.peak
        if not self.definition.keep_checkpoints:
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
        attrs = {
            "epochs": summary["epochs"],
            "measured": measured,
            "curves": curves(run / "metrics.csv"),
            "diagnosis": (summary.get("diagnosis") or {}).get("kind"),
        }
        return Outcome(TrialState.COMPLETE, measured["test/accuracy"], attrs)


def _training_accuracy(cli: FitCLI) -> float:
    """Of the tested weights, on training images as they are: not augmented, nothing dropped."""
    data = cli.datamodule.train_set
    assert data is not None
    model = cli.model.eval()
    right = 0
    images, labels = data.images[:_MOST_IMAGES], data.labels[:_MOST_IMAGES]
    with torch.inference_mode(), cli.trainer.precision_plugin.forward_context():
        for batch, target in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
            logits = model.infer(batch.to(model.device))
            right += int((logits.argmax(dim=1).cpu() == target).sum())
    return right / len(labels)


def curves(metrics: Path) -> dict[str, list[float]]:
    """The epochs' training and validation metrics of a run's ``metrics.csv``, in order."""
    found: dict[str, list[float]] = {}
    with metrics.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name.startswith(("train/", "val/")):
                    found.setdefault(name, []).append(float(value))
    found.pop("train/images_per_second", None)
    return found


def collected(study: optuna.Study, definition: Definition) -> Comparison:
    """What a comparison's study holds so far."""
    runs = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state in (TrialState.COMPLETE, TrialState.FAIL):
            attrs = trial.user_attrs
            failed = trial.state == TrialState.FAIL
            runs.append(
                Run(
                    **attrs["values"],
                    measured=attrs.get("measured", {}),
                    curves=attrs.get("curves", {}),
                    diagnosis=attrs.get("diagnosis"),
                    reason=attrs.get("reason", "no reason recorded") if failed else None,
                )
            )
    epochs = max((int(run.measured.get("epochs", 0)) for run in runs), default=0)
    return Comparison(
        name=definition.name,
        groups=definition.groups,
        variants=definition.variants,
        chain=definition.chain,
        seeds=definition.seeds,
        configs=definition.configs,
        epochs=epochs,
        runs=runs,
    )
