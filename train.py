"""Train, validate, test and predict: ``python train.py fit --config configs/optimized_cnn.yaml``.

Configurations compose from left to right, and every value can be set on the command line. A run is
a folder, ``runs/<experiment>/version_<N>``; ``test`` and ``predict`` need only ``--ckpt_path``.
"""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

import logging
import sys
import warnings
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
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from callbacks import (
    FiniteLoss,
    FitDiagnosis,
    Mistakes,
    PredictionWriter,
    ProgressBar,
    RunLogger,
    RunSummary,
    SignalStatistics,
    Throughput,
    TrainingImages,
)
from callbacks.remedies import Remedy, as_typed
from callbacks.run_folder import (
    CONFIG_KEY,
    LastCheckpoint,
    SaveConfig,
    check_fits,
    experiment_name,
    newest_checkpoint,
    read_checkpoint,
    run_folder,
)
from command_line import Parser, explain
from datamodules import ImageDataModule
from errors import UserError
from glibc_malloc import keep_freed_memory
from lightning_modules import ImageClassifier

# Warnings that nobody can act on here, each with the reason.
_QUIET = (
    # The data set is a tensor in memory: workers would only copy it.
    ".*does not have many workers.*",
    # The last batches of an epoch are fewer than log_every_n_steps where a run is short.
    ".*number of training batches .* is smaller than the logging interval.*",
    # Resuming and testing write into the run's own folder on purpose.
    ".*Checkpoint directory .* exists and is not empty.*",
    # Evaluation loads the weights alone, and needs no averaging state or checkpoint callback.
    "You're using the WeightAveraging callback, but loading a checkpoint outside.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    # Lightning's own calls, deprecated by torch.
    ".*isinstance.treespec, LeafSpec.* is deprecated.*",
    # main(args) is this project's own way in, for tests and tools.
    "LightningCLI's args parameter is intended to run from within Python.*",
    # Lightning's own estimate of a model's size.
    "Precision .* is not supported by the model summary.*",
)

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
    """

    def __init__(self, args: list[str] | None = None) -> None:
        self.checkpoint: dict[str, Any] | None = None
        self.checkpoint_path: Path | None = None
        keep_freed_memory()
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=sys.argv[1:] if args is None else args,
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

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """The arguments left out are set here: see ``_prepare_subcommand_kwargs``."""
        data = {"model", "dataloaders", "datamodule", "weights_only"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": {*data, "verbose"},
            "test": {*data, "verbose"},
            "predict": {*data, "return_predictions"},
        }

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
        super().parse_arguments(parser, self._with_checkpoint_config(list(args)))
        options = self.config[self.config.subcommand]
        if options.ckpt_path and self.checkpoint is None:
            self._read_checkpoint(options.ckpt_path, options.runs_dir, self._experiment(options))
        if self.config.subcommand != "fit" and self.checkpoint is None:
            raise UserError(_NEEDS_CHECKPOINT.format(self.config.subcommand))

    def _with_checkpoint_config(self, args: list[str]) -> list[str]:
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
        return [args[0], "--config", checkpoint[CONFIG_KEY], *args[1:]]

    def _read_checkpoint(self, path: str, runs_dir: str, experiment: str | None) -> dict[str, Any]:
        if path in ("last", "best"):
            self.checkpoint_path = newest_checkpoint(Path(runs_dir), experiment, path)
        else:
            self.checkpoint_path = Path(path)
        self.checkpoint = read_checkpoint(self.checkpoint_path)
        return self.checkpoint

    @override
    def _parse_ckpt_path(self) -> None:
        """Lightning's own reading of a checkpoint's hyper-parameters; done above, with more."""

    def _experiment(self, options: Any) -> str:
        """``--experiment``, or the configurations' names: ``mnist/baseline_cnn+dropout``."""
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
        for callback in (options.early_stopping, options.checkpoint):
            # Nobody wants a high loss or a low accuracy: a changed monitor takes its mode along.
            for name, mode in (("loss", "min"), ("accuracy", "max")):
                if str(callback.monitor).endswith(name):
                    callback.mode = mode

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:
            hint = "; choose another --trainer.accelerator, e.g. cpu or auto"
            raise UserError(f"{error}{hint if 'backend' in str(error) else ''}") from error
        except (ValueError, TypeError) as error:
            raise UserError(explain(str(error))) from error
        classes = self.datamodule.num_classes
        if self.model.num_classes < classes:
            raise UserError(
                f"num_classes is {self.model.num_classes}, but the data has {classes} classes; set "
                f"--model.num_classes {classes}"
            )
        if self.checkpoint is not None:
            assert self.checkpoint_path is not None
            check_fits(self.checkpoint, self.model, self.checkpoint_path)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        given = self.config_init[self.subcommand].trainer
        if given.logger in (None, True):
            kwargs["logger"] = self.make_logger()
        if given.profiler is None:
            kwargs["profiler"] = NoProfiler()
        self.run_summary = RunSummary()
        self.trainer_defaults = {"callbacks": [self.run_summary, *self.own_callbacks()]}
        return super().instantiate_trainer(**kwargs)

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
        """What watches a run beside the callbacks that have options of their own."""
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
        """What draws a run for TensorBoard."""
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
        """A short table: what was reached, where it lies, what to type next."""
        if not self.trainer.is_global_zero:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table

        summary = self.run_summary.summary
        table = Table(box=box.SIMPLE, show_header=False)
        table.add_column()
        table.add_column(overflow="fold")
        for name, value in self._rows(summary):
            table.add_row(name, value)
        console = Console()
        console.print(table)
        if self.subcommand == "fit" and checkpoint:
            short = as_typed(Path(checkpoint))
            console.print("next", style="bold")
            for command in (
                f"python train.py test --ckpt_path {short}",
                f"python train.py predict --ckpt_path {short}",
                f"tensorboard --logdir {self.config.fit.runs_dir}",
                *self._advice(summary),
            ):
                console.print(f"  {command}", soft_wrap=True, highlight=False)

    def _advice(self, summary: dict[str, Any], most: int = 3) -> list[str]:
        """The first commands that the diagnosis suggests, each below its reason."""
        if "diagnosis" not in summary:
            return []
        config = as_typed(Path(self.trainer.loggers[0].log_dir or "") / "config.yaml")
        advice = [Remedy(**entry) for entry in summary["diagnosis"]["advice"]]
        commands = [(remedy.why, remedy.command(config)) for remedy in advice if remedy.options]
        return [line for why, command in commands[:most] for line in (f"# {why}", command)]

    def _rows(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        rows = []
        if self.subcommand == "fit" and summary.get("best"):
            best = summary["best"]
            rows.append(("best epoch", f"{best['epoch']} of {summary['epochs']}"))
            rows += [(name, f"{best[name]:.4f}") for name in ("val/accuracy", "val/loss")]
        elif self.subcommand == "validate":
            metrics = self.trainer.callback_metrics.items()
            rows += [(name, f"{value:.4f}") for name, value in metrics if name.startswith("val/")]
        if self.subcommand != "validate":
            rows += [(name, f"{value:.4f}") for name, value in summary.get("test", {}).items()]
        if self.subcommand == "fit" and summary:
            rows.append(("time", f"{summary['seconds']:.1f} s"))
            if summary["images_per_second"]:
                rows.append(("speed", f"{summary['images_per_second']:,.0f} images/s"))
            rows.append(("parameters", f"{summary['parameters']:,}"))
        if self.subcommand == "fit" and "diagnosis" in summary:
            found = summary["diagnosis"]
            rows.append(("diagnosis", f"{found['kind']}: {found['evidence'][0]}"))
        if self.trainer.loggers and isinstance(self.trainer.logger, RunLogger):
            rows.append(("run", as_typed(Path(self.trainer.logger.log_dir))))
        return rows


def quiet() -> None:
    """Leave out what nobody can act on: the warnings above, and Lightning's chatter."""
    for message in _QUIET:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main(args: list[str] | None = None) -> ExperimentCLI:
    """Run a command line, e.g. ``main(["fit", "--config", "configs/baseline_cnn.yaml"])``.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.

    Raises:
        SystemExit: with a line that says what is wrong, for what the user can put right.
    """
    quiet()
    try:
        return ExperimentCLI(args)
    except (UserError, MisconfigurationException) as error:
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
    except RuntimeError as error:
        if "Early stopping conditioned on metric" not in str(error):
            raise
        message = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}"
    print(f"train.py: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def leave_process_group() -> None:
    """What a process of DDP does last, where all of them have come to their end.

    One that exits while the group's threads run may abort, and takes the others along.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    leave_process_group()
