"""The LightningCLI of one training: its options, callbacks and run folder."""

import sys
from argparse import SUPPRESS
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from callbacks import (
    FiniteLoss,
    FitDiagnosis,
    Mistakes,
    PredictionWriter,
    ProgressBar,
    RunSummary,
    SignalStatistics,
    Throughput,
    TrainingImages,
)
from callbacks.chosen_precision import ChosenPrecision
from callbacks.interruption import Interruption
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.save_config import SaveConfig
from datamodules import ImageDataModule
from experiment.checkpoint import check_fits, check_states, while_restoring
from experiment.closing_table import print_report
from experiment.going_on import finished, mark, restarted_run, run_that_goes_on
from experiment.no_profiler import NoProfiler
from experiment.strangers_config import configuration, option
from experiment.sync_batchnorm import leave_out_sync_batchnorm
from foundation.checkout import find_own_modules
from foundation.checkpoint_file import read_checkpoint
from foundation.checkpoint_io import WholeCheckpointIO
from foundation.errors import UserError
from foundation.monitor import mode_of
from foundation.parser import Parser, explain
from foundation.run_folder import (
    as_typed,
    check_name,
    experiment_name,
    newest_checkpoint,
    run_folder,
)
from foundation.run_logger import RunLogger
from foundation.workarounds.glibc_malloc import keep_freed_memory
from foundation.workarounds.sigterm_broadcast import leave_sigterm_alone
from lightning_modules import ImageClassifier

_NEEDS_CHECKPOINT = (
    "{} needs trained weights: give --ckpt_path runs/<experiment>/version_<N>/checkpoints/best.ckpt"
    ", or --ckpt_path best for the newest run"
)


class ExperimentCLI(LightningCLI):
    """LightningCLI with this project's callbacks, run folders and error messages.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.
        interruption: the callback that signals stop the run through; one of its own unless given.

    Attributes:
        announces: whether a fit's first line is printed.
    """

    announces = True
    last_checkpoint: LastCheckpoint | None = None

    def __init__(
        self, args: list[str] | None = None, interruption: Interruption | None = None
    ) -> None:
        self.interruption = interruption or Interruption()
        self.checkpoint: dict[str, Any] | None = None
        self.checkpoint_path: Path | None = None
        given = sys.argv[1:] if args is None else args
        self.asked = given[0] if given else ""
        keep_freed_memory()
        find_own_modules()
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=given,
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--experiment",
            type=str | None,
            default=None,
            help="Name of the run's folder; made from the configurations' names unless given.",
        )
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--test_best",
            type=bool,
            default=True,
            help="Test the best checkpoint once when fit has ended.",
        )
        parser.add_argument(
            "--trust",
            type=str,
            default=SUPPRESS,
            help="Packages, with commas between them, whose classes the configuration in somebody "
            "else's checkpoint may name; see docs/security.md.",
        )
        parser.add_argument("--tune", type=dict, default=SUPPRESS, help=SUPPRESS)  # compare.py's
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="high",
            help="highest, high (TF32 where a GPU has it) or medium.",
        )
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LearningRateMonitor, "lr_monitor")
        parser.set_defaults(
            {
                "early_stopping.monitor": "val/loss",
                "early_stopping.patience": 10,
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
                "lr_monitor.logging_interval": "step",
                "trainer.max_epochs": 10,
                "trainer.enable_model_summary": False,
            }
        )

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's is static
        """The one that is asked for, else all: each one's parser takes a moment to make.

        The arguments left out are set here: see ``_prepare_subcommand_kwargs``.
        """
        data = {"model", "dataloaders", "datamodule", "weights_only"}
        every = {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {*data, "verbose"},
            "test": {*data, "verbose"},
            "predict": {*data, "return_predictions"},
        }
        return {self.asked: every[self.asked]} if self.asked in every else every

    @override
    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """List ``diagnose`` too, which ``experiment.main`` answers."""
        super()._add_subcommands(parser, **kwargs)
        assert isinstance(parser, Parser)
        parser.commands.add_subcommand(
            "diagnose", Parser(), help="Say what is wrong with runs that are finished."
        )

    @override
    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self.checkpoint_path
        kwargs["weights_only"] = True  # a checkpoint is data, never code
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False  # the closing table says it
        return kwargs

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Let a checkpoint bring its own configuration where the command line gives none."""
        assert isinstance(parser, Parser)
        super().parse_arguments(parser, self._with_checkpoint_config(list(args), parser))
        options = self.config[self.config.subcommand]
        written = parser.written[self.config.subcommand]
        for name in ("trust", "tune"):  # not of what repeats the run
            options.pop(name, None)
            written.pop(name, None)
        if options.experiment is not None:
            check_name("--experiment", options.experiment)
        if self.config.subcommand == "fit":
            last = restarted_run(Path(options.runs_dir, self._experiment(options)))
            if last is not None:
                self._read_checkpoint(str(last), options.runs_dir, None)
        if options.ckpt_path and self.checkpoint is None:
            self._read_checkpoint(options.ckpt_path, options.runs_dir, self._experiment(options))
        if self.config.subcommand != "fit" and self.checkpoint is None:
            raise UserError(_NEEDS_CHECKPOINT.format(self.config.subcommand))

    def _with_checkpoint_config(self, args: list[str], parser: Parser) -> list[str]:
        path = option(args, "--ckpt_path")
        own = option(args, "--config") or option(args, "-c") or option(args, "--model")
        asks = any(arg in ("-h", "--help") or arg.startswith("--print_config") for arg in args)
        if not args or asks or own is not None:
            return args
        if path is None or path == "null":
            if args[0] in ("validate", "test", "predict"):
                raise UserError(_NEEDS_CHECKPOINT.format(args[0]))
            return args
        runs_dir = option(args, "--runs_dir") or "runs"
        checkpoint = self._read_checkpoint(path, runs_dir, option(args, "--experiment"))
        return [args[0], "--config", configuration(checkpoint, path, args, parser), *args[1:]]

    def _read_checkpoint(self, path: str, runs_dir: str, experiment: str | None) -> dict[str, Any]:
        if path in ("last", "best"):
            if experiment is not None:
                check_name("--experiment", experiment)
            self.checkpoint_path = newest_checkpoint(Path(runs_dir), experiment, path)
        else:
            self.checkpoint_path = Path(path)
        self.checkpoint = read_checkpoint(self.checkpoint_path)
        return self.checkpoint

    @override
    def _parse_ckpt_path(self) -> None:
        """Lightning's own reading of a checkpoint's hyper-parameters; done above, with more."""

    def _experiment(self, options: Any) -> str:
        """``--experiment``, or the configurations' names: ``tutorial/baseline_cnn+dropout``."""
        if options.experiment:
            return options.experiment
        # None stands for a checkpoint's own.
        files = [Path(str(config)) for config in options.get("config") or [] if config is not None]
        return experiment_name(files) or options.model.class_path.rsplit(".", 1)[-1]

    @override
    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(f"--seed_everything: {error}") from error

    @override
    def before_instantiate_classes(self) -> None:
        options = self.config[self.config.subcommand]
        torch.set_float32_matmul_precision(options.float32_matmul_precision)
        assert isinstance(self.parser, Parser)
        written = self.parser.written[self.config.subcommand]
        for name in ("early_stopping", "checkpoint"):
            # Nobody wants a high loss or a low accuracy: a changed monitor takes its mode along.
            given = written.get(f"{name}.mode", "min" if name == "early_stopping" else "max")
            options[name].mode = mode_of(str(options[name].monitor), otherwise=given)
        model = options.model.init_args
        schedule = model.get("lr_scheduler")
        if schedule and schedule.class_path.endswith(".ReduceLROnPlateau"):
            arguments = schedule.init_args
            monitor = arguments.get("monitor", model.lr_scheduler_monitor)
            arguments.mode = mode_of(str(monitor), otherwise=arguments.mode)

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:
            hint = "; choose another --trainer.accelerator, e.g. cpu, mps or auto"
            raise UserError(f"{error}{hint if 'backend' in str(error) else ''}") from error
        except (ValueError, TypeError) as error:
            said = str(error).partition("\nException raised from")[0]  # torch's own stack
            raise UserError(explain(said)) from error
        except (RuntimeError, ArithmeticError, MemoryError) as error:
            if self.checkpoint_path is None:
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(
                f"--ckpt_path {self.checkpoint_path}: the network of its configuration cannot be "
                f"made here ({reason}); use another checkpoint"
            ) from error
        if self.checkpoint is not None:
            assert self.checkpoint_path is not None
            check_fits(self.checkpoint, self.model, self.checkpoint_path)
            check_states(self.checkpoint, self.trainer, self.checkpoint_path)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.model.adapt(self.datamodule.image_shape, self.datamodule.num_classes)
        given = self.config_init[self.subcommand].trainer
        if given.logger in (None, True):
            kwargs["logger"] = self.make_logger()
        if given.profiler is None:
            kwargs["profiler"] = NoProfiler()
        if not given.plugins:
            kwargs["plugins"] = [WholeCheckpointIO()]
        self.run_summary = RunSummary(announce=self.announces)
        first: list[Callback] = [self.run_summary, *self.precision_callbacks()]
        if self._keeps_checkpoints():
            self.last_checkpoint = LastCheckpoint(self.config[self.subcommand].checkpoint.dirpath)
            first.append(self.last_checkpoint)
        own = [*self.own_callbacks(), self.interruption]
        self.trainer_defaults = {"callbacks": [*first, *own]}
        trainer = super().instantiate_trainer(**kwargs)
        leave_sigterm_alone(trainer)
        leave_out_sync_batchnorm(trainer)
        return trainer

    def precision_callbacks(self) -> list[Callback]:
        """The callback that chooses a precision, where none is given."""
        given = self.config_init[self.subcommand].trainer
        if given.precision is not None or given.plugins:
            return []
        before = (self.checkpoint or {}).get("callbacks", {}).get("ChosenPrecision")
        return [ChosenPrecision(before if self.subcommand == "fit" else None)]

    def make_logger(self) -> RunLogger | bool:
        """The run's logger; False for none."""
        if self.subcommand == "predict":
            return False  # predictions.csv is all there is to write
        options = self.config[self.subcommand]
        options.experiment = self._experiment(options)
        fits = self.subcommand == "fit"
        run = self._run()
        if run is None:
            logger = RunLogger(options.runs_dir, options.experiment)
        else:
            step = (self.checkpoint or {})["global_step"] if fits else None
            logger = RunLogger(str(run.parents[1]), run.parent.name, run.name, step)
        if fits:
            mark(logger)
        return logger

    def _run(self) -> Path | None:
        """The run of the checkpoint, where this command goes on in it or adds its results."""
        if self.checkpoint_path is None:
            return None
        if self.subcommand == "fit":
            return run_that_goes_on(self.checkpoint_path)
        return run_folder(self.checkpoint_path)

    def own_callbacks(self) -> list[Callback]:
        """The callbacks of every run, beside those that have options of their own."""
        given = self.config_init[self.subcommand].trainer
        own: list[Callback] = [Throughput(), FiniteLoss()]
        if given.enable_progress_bar is not False:
            own.append(ProgressBar())
        if given.logger in (None, True) and self.subcommand != "predict":
            own += [*self.pictures(), FitDiagnosis()]
        return own

    def pictures(self) -> list[Callback]:
        """The callbacks that draw a run for TensorBoard."""
        # Hooks on the layers would have a compiled network compiled once more.
        signals = [] if self.model.compiled else [SignalStatistics()]
        return [TrainingImages(), *signals, Mistakes()]

    def _keeps_checkpoints(self) -> bool:
        given = self.config_init[self.subcommand]
        somewhere = given.trainer.logger or given.trainer.logger is None or given.checkpoint.dirpath
        return bool(somewhere) and given.trainer.enable_checkpointing is not False

    @override
    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Leave out the callbacks that have nothing to work on in this run."""
        idle: list[type[Callback]] = []
        if not config["logger"] or config["fast_dev_run"]:
            idle.append(LearningRateMonitor)
        if not self._keeps_checkpoints():
            idle.append(ModelCheckpoint)
        if self.datamodule.val_size == 0:
            idle += [EarlyStopping, ModelCheckpoint]  # there is no best epoch without validation
            config["limit_val_batches"] = 0
        kept = [callback for callback in callbacks if not isinstance(callback, tuple(idle))]
        given = config["callbacks"]
        given = given if isinstance(given, list) else [given]
        if not any(isinstance(c, Checkpoint) for c in [*kept, *given]):
            config["enable_checkpointing"] = False  # or Lightning would add one of its own
        trainer = super()._instantiate_trainer(config, kept)
        # Before averages take the place of the weights, and before the next epoch's clock starts.
        trainer.callbacks.sort(key=lambda c: not isinstance(c, RunSummary | LastCheckpoint))  # type: ignore[attr-defined]
        return trainer

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Run it, unless a fit goes on in a run that is finished."""
        run = self._run()
        if run is not None and subcommand == "fit":
            assert self.checkpoint is not None
            trainer = self.trainer
            done = finished(self.checkpoint, run, trainer.max_epochs or -1, trainer.max_steps)
            if done:
                if trainer.is_global_zero:
                    print(f"{as_typed(run)} is finished: {done}")
                return
        with while_restoring(self.checkpoint_path):
            super()._run_subcommand(subcommand)

    def before_fit(self) -> None:
        """Say what is gone on from."""
        if self.checkpoint is not None and self.announces and self.trainer.is_global_zero:
            assert self.checkpoint_path is not None
            path, epochs = as_typed(self.checkpoint_path), self.checkpoint["epoch"]
            new = "" if self._run() else ", in a new run"
            print(f"going on from {path}, after {epochs} epochs{new}", flush=True)

    def after_fit(self) -> None:
        """Test the best checkpoint, or else the last, once, and say what was reached."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if not best and self.last_checkpoint is not None:
            best = str(self.last_checkpoint.path or "")
        if self.config.fit.test_best and best and not self.trainer.interrupted:
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=best,
                weights_only=True,
                verbose=False,
            )
        if not self.trainer.interrupted:
            self.run_summary.add(self.trainer, {"finished": True})
        self._report(best)

    def after_validate(self) -> None:
        self._report(str(self.checkpoint_path))

    def after_test(self) -> None:
        self._report(str(self.checkpoint_path))

    def before_predict(self) -> None:
        """Choose where the predictions go: beside the run's other results."""
        assert self.checkpoint_path is not None
        folder = run_folder(self.checkpoint_path) or Path.cwd()
        self.predictions = PredictionWriter(folder / "predictions.csv")
        self.trainer.callbacks.append(self.predictions)  # type: ignore[attr-defined]

    def after_predict(self) -> None:
        if self.trainer.is_global_zero:
            print(f"predictions: {as_typed(self.predictions.path)}")

    def _report(self, checkpoint: str) -> None:
        """Say what was reached, where it lies, what to type next."""
        if self.trainer.is_global_zero:
            print_report(
                str(self.subcommand),
                self.run_summary.summary,
                self.trainer,
                self.config[self.subcommand].runs_dir,
                checkpoint,
            )
