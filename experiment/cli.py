"""The LightningCLI of one training: its options, callbacks and run folder."""

import sys
from argparse import SUPPRESS
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import Trainer
from lightning.pytorch.utilities import rank_zero_only
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
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.save_config import SaveConfig
from datamodules import ImageDataModule
from experiment.checkpoint import check_fits, check_states, while_restoring
from experiment.closing_table import print_report
from experiment.strangers_config import strangers_config
from foundation.checkout import find_own_modules
from foundation.checkpoint_file import read_checkpoint
from foundation.errors import UserError
from foundation.monitor import mode_of
from foundation.parser import Parser, explain
from foundation.run_folder import (
    CONFIG_KEY,
    SIGNATURE_KEY,
    as_typed,
    check_name,
    experiment_name,
    newest_checkpoint,
    run_folder,
)
from foundation.run_logger import RunLogger
from foundation.signature import is_own
from foundation.workarounds.glibc_malloc import keep_freed_memory
from lightning_modules import ImageClassifier

_NEEDS_CHECKPOINT = (
    "{} needs trained weights: give --ckpt_path runs/<experiment>/version_<N>/checkpoints/best.ckpt"
    ", or --ckpt_path best for the newest run"
)


class NoProfiler(PassThroughProfiler):
    """Lightning's own for no profiling makes a generator in each of a hundred calls a step."""

    @override
    def profile(self, action_name: str) -> AbstractContextManager[str]:  # type: ignore[override]
        return nullcontext(action_name)


class ExperimentCLI(LightningCLI):
    """LightningCLI with this project's callbacks, run folders and error messages.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.

    Attributes:
        announces: whether a fit's first line is printed.
    """

    announces = True

    def __init__(self, args: list[str] | None = None) -> None:
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
        options.pop("trust", None)  # is of this command, not of what repeats the run
        if options.experiment is not None:
            check_name("--experiment", options.experiment)
        if options.ckpt_path and self.checkpoint is None:
            self._read_checkpoint(options.ckpt_path, options.runs_dir, self._experiment(options))
        if self.config.subcommand != "fit" and self.checkpoint is None:
            raise UserError(_NEEDS_CHECKPOINT.format(self.config.subcommand))

    def _with_checkpoint_config(self, args: list[str], parser: Parser) -> list[str]:
        def given(name: str) -> str | None:
            for i, arg in enumerate(args):
                if arg.startswith(f"{name}="):
                    return arg.split("=", 1)[1]
                if arg == name and i + 1 < len(args):
                    return args[i + 1]
            return None

        path, own = given("--ckpt_path"), given("--config") or given("-c") or given("--model")
        asks = any(arg in ("-h", "--help") or arg.startswith("--print_config") for arg in args)
        if not args or asks or own is not None:
            return args
        if path is None or path == "null":
            if args[0] in ("validate", "test", "predict"):
                raise UserError(_NEEDS_CHECKPOINT.format(args[0]))
            return args
        checkpoint = self._read_checkpoint(
            path, given("--runs_dir") or "runs", given("--experiment")
        )
        if CONFIG_KEY not in checkpoint:
            raise UserError(
                f"--ckpt_path {path}: holds no configuration; give the one it was trained with: "
                "--config …"
            )
        text = checkpoint[CONFIG_KEY]
        if not is_own(text, checkpoint.get(SIGNATURE_KEY)):
            data, trust = given("--data"), given("--trust") or ""
            try:
                text = strangers_config(text, args[0], args[1:], parser, data, trust)
            except UserError as error:
                raise UserError(f"--ckpt_path {path}: {error}") from error
            _say_what_counts(path, args[0])
        return [args[0], "--config", text, *args[1:]]

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
        self.run_summary = RunSummary(announce=self.announces)
        first = [self.run_summary, *self.precision_callbacks()]
        self.trainer_defaults = {"callbacks": [*first, *self.own_callbacks()]}
        return super().instantiate_trainer(**kwargs)

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
        run = run_folder(self.checkpoint_path) if self.checkpoint_path else None
        # A checkpoint's run goes on, or gets its test results, in its own folder.
        place = (run.parents[1], run.parent.name, run.name) if run else None
        return RunLogger(*map(str, place or (options.runs_dir, options.experiment)))

    def own_callbacks(self) -> list[Callback]:
        """The callbacks of every run, beside those that have options of their own."""
        given = self.config_init[self.subcommand].trainer
        own: list[Callback] = [Throughput(), FiniteLoss()]
        if self._keeps_checkpoints():
            own.append(LastCheckpoint(self.config[self.subcommand].checkpoint.dirpath))
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
            config["enable_checkpointing"] = False  # or Lightning would add one of its own
        if self.datamodule.val_size == 0:
            idle += [EarlyStopping, ModelCheckpoint]  # there is no best epoch without validation
            config["limit_val_batches"] = 0
        kept = [callback for callback in callbacks if not isinstance(callback, tuple(idle))]
        return super()._instantiate_trainer(config, kept)

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        with while_restoring(self.checkpoint_path):
            super()._run_subcommand(subcommand)

    def after_fit(self) -> None:
        """Test the best checkpoint, once, and say what was reached."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if self.config.fit.test_best and best and not self.trainer.interrupted:
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=best,
                weights_only=True,
                verbose=False,
            )
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


@rank_zero_only
def _say_what_counts(path: str, command: str) -> None:
    what = "model, data and plain values" if command == "fit" else "model and data"
    print(
        f"train.py: note: {path} was not written by you on this machine: of its configuration only "
        f"{what} count, without paths (docs/security.md)",
        file=sys.stderr,
    )
