"""Runs of a comparison: trained, tested and measured."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.trial import TrialState

from callbacks import NonFiniteLossError, Throughput
from callbacks.peak_memory import PeakMemory
from datamodules.image_dataset import ImageDataset
from diagnosis.curves import read_curves
from foundation.checkout import git_commit
from foundation.errors import UserError
from foundation.machine import processor
from studies.compare.comparison_definition import ComparisonDefinition
from studies.compare.comparison_table import Comparison, Run
from studies.compare.runs_file import packed, unpacked
from studies.names import failure
from studies.runner import Outcome, Runner
from studies.training import FitCLI, config_keys

# So many training images tell the training accuracy to a few thousandths.
_MOST_IMAGES = 10_000


class ComparisonRunner(Runner):
    """Train a variant under a seed, test its best checkpoint, and measure what it cost.

    Without validation (``val_size: 0``, or fewer steps than an epoch) the last weights are tested.

    The queue's trials have the parameters ``group``, ``variant`` and ``seed``. A run is the folder
    ``runs/<group>/<variant>/seed_<seed>``.
    """

    def run_folder(self, trial_id: int) -> Path:
        values = self.queued(trial_id)
        return Path(
            self.folder, "runs", values["group"], values["variant"], f"seed_{values['seed']}"
        )

    def train(self, trial_id: int, *, child: bool = False) -> Outcome:
        values = self.queued(trial_id)
        # As it is now: another machine may have added what this trial is about.
        definition = ComparisonDefinition(**self.queue.study.user_attrs["definition"])
        config = definition.configs[f"{values['group']}/{values['variant']}"]
        options = [f"--config={config}", f"--seed_everything={values['seed']}"]
        keys = config_keys(config)
        if "data.init_args.split_seed" in keys:
            # So that a verdict is about the procedure, not about one split of the images.
            options.append(f"--data.init_args.split_seed={values['seed']}")
        if keys["trainer.precision"] is None and definition.precision:
            options.append(f"--trainer.precision={definition.precision}")
        if keys["trainer.max_steps"] != -1 or keys["trainer.limit_val_batches"] == 0:
            options.append("--early_stopping.strict=false")  # there may be no validation
        tested = definition.metric.startswith("test/")
        if not tested:
            options += ["--test_best=false", "--trainer.enable_checkpointing=false"]
        memory = PeakMemory()
        run = self.run_folder(trial_id)
        try:
            cli = FitCLI(options, run, [memory], keep=True, child=child)
        except NonFiniteLossError as error:
            written = run / "summary.json"
            summary = json.loads(written.read_text()) if written.is_file() else {}
            return self.failed(trial_id, error, **_diagnosed(summary))
        if tested and "test" not in cli.run_summary.summary:  # no best epoch: without validation
            cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        summary = cli.run_summary.summary
        measured = {
            name: value for name, value in summary.get("test", {}).items() if value is not None
        }
        measured |= {"epochs": summary["epochs"], "parameters": summary["parameters"]}
        if best := summary["best"]:
            measured |= {name: best[name] for name in ("val/accuracy", "val/loss")}
            measured["best_epoch"] = best["epoch"]
        if definition.metric not in measured:
            raise UserError("the training ended before its first validation")
        right = None
        if tested:
            train, test = cli.datamodule.train_set, cli.datamodule.test_set
            assert train is not None
            assert test is not None
            measured["train_accuracy"] = float(_right(cli, train, _MOST_IMAGES).mean())
            if keys["trainer.limit_test_batches"] in (None, 1.0):
                right = packed(_right(cli, test))
        (speed,) = (c for c in cli.trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
        if speed.epochs:
            # The median: what else the machine does for a moment does not count, nor the first
            # steps.
            measured["seconds_per_epoch"] = statistics.median(speed.epochs)
        if memory.peak is not None:
            measured["peak_memory"] = memory.peak
        if not definition.keep_checkpoints:
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
        attrs = {
            "epochs": summary["epochs"],
            "machine": processor(),
            "commit": git_commit() or "unknown",
            "measured": measured,
            "right": right,
            "curves": read_curves(run / "metrics.csv"),
            **_diagnosed(summary),
        }
        return Outcome(TrialState.COMPLETE, measured[definition.metric], attrs)


def _diagnosed(summary: dict[str, Any]) -> dict[str, Any]:
    """The diagnosis in ``summary.json``, for the trial's attributes."""
    found = summary.get("diagnosis") or {}
    return {
        "diagnosis": found.get("kind"),
        "evidence": found.get("evidence", []),
        "advice": found.get("advice", []),
    }


def _right(cli: FitCLI, data: ImageDataset, most: int | None = None) -> NDArray[np.bool_]:
    """Tell which images the tested weights classify rightly, as they are, nothing dropped."""
    model = cli.model.eval()
    found = []
    images, labels = data.images[:most], data.labels[:most]
    with torch.inference_mode(), cli.trainer.precision_plugin.forward_context():
        size = cli.datamodule.eval_batch_size
        for batch, target in zip(images.split(size), labels.split(size), strict=True):
            logits = model.infer(batch.to(model.device))
            found.append(logits.argmax(dim=1).cpu() == target.cpu())
    return torch.cat(found).numpy()


def collected(study: optuna.Study, definition: ComparisonDefinition) -> Comparison:
    """The runs that a comparison's study holds so far."""
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
                    evidence=attrs.get("evidence", []),
                    advice=attrs.get("advice", []),
                    reason=failure(trial) if failed else None,
                    machine=attrs.get("machine", ""),
                    commit=attrs.get("commit", ""),
                    config=definition.digests.get(
                        f"{attrs['values']['group']}/{attrs['values']['variant']}", ""
                    ),
                    right=unpacked(attrs["right"]) if attrs.get("right") else None,
                )
            )
    return of_runs(definition, runs)


def of_runs(definition: ComparisonDefinition, runs: list[Run]) -> Comparison:
    """A comparison's runs, together with what it is about."""
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
        metric=definition.metric,
        margin=definition.margin,
        families=definition.families,
        tuned=definition.tuned,
    )
