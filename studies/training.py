"""``train.py fit`` inside this process, as one training among many."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from optuna.trial import Trial
from typing_extensions import override

from callbacks import FiniteLoss, Throughput
from experiment.cli import ExperimentCLI
from foundation.errors import UserError
from foundation.interruption import at_once, later
from foundation.parser import Parser
from foundation.run_logger import RunLogger
from foundation.yaml_text import load_yaml


class NoSuchMetricError(UserError):
    """The objective names a metric that no training logs: no other trial would do better."""


class SeveralProcesses(Exception):
    """This training needs more than one process."""


class FitCLI(ExperimentCLI):
    """``train.py fit`` that prints and draws nothing, and writes into a given folder.

    Args:
        args: options of ``train.py fit``.
        folder: the run's folder; emptied first.
        callbacks: beside those of the configuration; an :class:`EpochReport` among them says what
            the hyper-parameters reached.
        hparams: for TensorBoard's HPARAMS tab.
        keep: write checkpoints, test at the end and save the configuration, as ``train.py`` does.
        child: whether this process may become one of several.

    Attributes:
        run_summary: what was reached.

    Raises:
        SeveralProcesses: the training needs them, and this process is no child.
    """

    announces = False

    def __init__(
        self,
        args: Sequence[str],
        folder: Path,
        callbacks: Sequence[Callback] = (),
        *,
        hparams: Mapping[str, Any] | None = None,
        keep: bool = False,
        child: bool = False,
    ) -> None:
        self.folder = folder
        self.extra_callbacks = list(callbacks)
        self.hparams = hparams
        self.keep = keep
        self.child = child
        quiet = ["--trainer.enable_progress_bar=false"]
        if not keep:
            quiet += ["--trainer.enable_checkpointing=false", "--test_best=false"]
        with at_once():
            super().__init__(["fit", *args, *quiet])

    @override
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        if not self.keep:
            self.save_config_callback = None

    @override
    def _dump_config(self) -> None:
        """For the hyper-parameters in a checkpoint; there is none unless runs are kept."""
        if self.keep:
            super()._dump_config()
        else:
            self.config_dump: dict[str, Any] = {}

    @override
    def make_logger(self) -> RunLogger:
        if getattr(rank_zero_only, "rank", 0) == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        parent = self.folder.parent
        return RunLogger(str(parent.parent), parent.name, self.folder.name)

    @override
    def own_callbacks(self) -> list[Callback]:
        own = super().own_callbacks() if self.keep else [Throughput(), FiniteLoss()]
        return [*own, *self.extra_callbacks]

    @override
    def pictures(self) -> list[Callback]:
        """None: a study draws its own, and a run's would take longer than a short run's epoch."""
        return []

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        if self.trainer.world_size > 1 and not self.child:
            raise SeveralProcesses
        super()._run_subcommand(subcommand)

    @override
    def after_fit(self) -> None:
        if self.keep:
            super().after_fit()
        if self.hparams is not None and self.trainer.is_global_zero:
            reached = {
                f"reached/{watch.metric}": watch.best
                for watch in self.extra_callbacks
                if isinstance(watch, EpochReport)
            }
            logger = self.trainer.logger
            assert logger is not None
            logger.log_hyperparams(dict(self.hparams), reached)
            logger.finalize("success")

    @override
    def _report(self, checkpoint: str) -> None:
        """The study says what was reached."""


class _ConfigCLI(ExperimentCLI):
    """Parse the options of ``train.py fit`` and stop there."""

    @override
    def _set_seed(self) -> None:
        pass

    @override
    def instantiate_classes(self) -> None:
        pass

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        pass


def complete_config(args: Sequence[str]) -> str:
    """Every value of the run that ``train.py fit`` with these options would do, as YAML.

    Raises:
        UserError: the options are not valid; says which and why.
    """
    return both_configs(args)[0]


def written_config(args: Sequence[str]) -> str:
    """Compose what files and options of ``train.py fit`` write, as YAML, without any defaults.

    For what further options are to be put on: where one names another class, arguments that nobody
    wrote are then that class's own.

    Raises:
        UserError: the options are not valid; says which and why.
    """
    return both_configs(args)[1]


def both_configs(args: Sequence[str]) -> tuple[str, str]:
    """The complete configuration and the written one, of one look at the options.

    Raises:
        UserError: the options are not valid; says which and why.
    """
    cli = _ConfigCLI(["fit", *args])
    assert isinstance(cli.parser, Parser)
    parser, written = cli._parser("fit"), cli.parser.written.fit
    complete = parser.dump(cli.config.fit, skip_unset=False)
    return complete, parser.dump(written, skip_unset=False, skip_validation=True)


def config_keys(config: str) -> dict[str, Any]:
    """Every key of a complete configuration, dotted, with its value; branches too."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        found = {prefix: node} if prefix else {}
        if isinstance(node, dict):
            for name, child in node.items():
                found |= walk(child, f"{prefix}.{name}" if prefix else str(name))
        return found

    return walk(load_yaml(config), "")


def check_validated(name: str, config: str) -> None:
    """Refuse a configuration that trains without validation.

    Args:
        name: of what needs validation, for the message.
        config: a complete configuration, YAML.

    Raises:
        UserError: names the value that leaves validation out.
    """
    keys = config_keys(config)
    for key in ("data.init_args.val_size", "trainer.limit_val_batches"):
        if keys.get(key) == 0:
            shown = key.replace(".init_args", "")
            raise UserError(f"{shown} is 0; {name} is decided by validation images")


class EpochReport(Callback):
    """Report a metric to an Optuna trial after every epoch, and stop where the pruner says so.

    Args:
        metric: e.g. ``val/accuracy``.
        better: ``max`` or ``min``.

    Attributes:
        best: the best epoch's value of the training that runs; None before its first.
        epochs: trained until the last validation, over all trainings.
        stopped: whether the pruner ended the training.
    """

    def __init__(self, metric: str, better: Callable[..., float]) -> None:
        self.metric = metric
        self.better = better
        self.trial: Trial | None = None
        self.best: float | None = None
        self.epochs = 0
        self.stopped = False
        self._before = 0

    def begin(self, trial: Trial | None) -> None:
        """Watch another training; ``trial`` is None where the pruner does not look."""
        self.trial = trial
        self.best = None
        self._before = self.epochs

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.metric not in trainer.callback_metrics:
            known = [name for name in sorted(trainer.callback_metrics) if name.startswith("val/")]
            raise NoSuchMetricError(
                f"there is no metric {self.metric}; this run has {', '.join(known)}"
            )
        value = float(trainer.callback_metrics[self.metric])
        self.best = value if self.best is None else self.better(self.best, value)
        epoch = trainer.current_epoch + 1
        self.epochs = self._before + epoch
        stop = False
        if trainer.is_global_zero and self.trial is not None:
            study, storage = self.trial.study, self.trial.storage
            with later():
                # Trial.report would ignore the epochs of a trial that runs again.
                storage.set_trial_intermediate_value(self.trial._trial_id, epoch, value)
                now = storage.get_trial(self.trial._trial_id)
                # Not after the last epoch, where nothing is left to save; nor before the one that
                # a trial that runs again had come to, which is the one that a pruner looks at.
                if now.last_step == epoch < (trainer.max_epochs or 0):
                    stop = study.pruner.prune(study, now)
        if trainer.strategy.broadcast(stop):
            self.stopped = trainer.should_stop = True
