"""The table that ends a command."""

from pathlib import Path
from typing import Any

from lightning import Trainer

from diagnosis.suggestions import Suggestion
from foundation.run_folder import as_typed, program
from foundation.run_logger import RunLogger


def print_report(
    command: str, summary: dict[str, Any], trainer: Trainer, runs_dir: str, checkpoint: str
) -> None:
    """Print a short table: what was reached, where it lies, what to type next.

    Args:
        command: that has ended: fit, validate or test.
        summary: content of the run's ``summary.json``.
        trainer: that did it.
        runs_dir: folder of all runs.
        checkpoint: path of the one that was tested; empty for none.
    """
    # Costs a moment of start-up that only this needs.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _rows(command, summary, trainer):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    if command == "fit" and checkpoint:
        short = as_typed(Path(checkpoint))
        console.print("next", style="bold")
        for line in (
            f"{program('train.py')} test --ckpt_path {short}",
            f"{program('train.py')} predict --ckpt_path {short}",
            f"tensorboard --logdir {runs_dir}",
            *_advice(summary, trainer),
        ):
            console.print(f"  {line}", soft_wrap=True, highlight=False)


def _advice(summary: dict[str, Any], trainer: Trainer, most: int = 3) -> list[str]:
    """The first commands that the diagnosis suggests, each below its reason."""
    if "diagnosis" not in summary:
        return []
    config = as_typed(Path(trainer.loggers[0].log_dir or "") / "config.yaml")
    advice = [Suggestion(**entry) for entry in summary["diagnosis"]["advice"]]
    commands = [
        (suggestion.why, suggestion.command(config)) for suggestion in advice if suggestion.options
    ]
    return [line for why, command in commands[:most] for line in (f"# {why}", command)]


def _rows(command: str, summary: dict[str, Any], trainer: Trainer) -> list[tuple[str, str]]:
    rows = []
    if command == "fit" and summary.get("best"):
        best = summary["best"]
        rows.append(("best epoch", f"{best['epoch']} of {summary['epochs']}"))
        rows += [(name, f"{best[name]:.4f}") for name in ("val/accuracy", "val/loss")]
    elif command == "validate":
        metrics = trainer.callback_metrics.items()
        rows += [(name, f"{value:.4f}") for name, value in metrics if name.startswith("val/")]
    if command != "validate":
        rows += [(name, f"{value:.4f}") for name, value in summary.get("test", {}).items()]
    if command == "fit" and summary:
        rows.append(("time", f"{summary['seconds']:.1f} s"))
        if summary["images_per_second"]:
            rows.append(("speed", f"{summary['images_per_second']:,.0f} images/s"))
        rows.append(("parameters", f"{summary['parameters']:,}"))
    if command == "fit" and "diagnosis" in summary:
        found = summary["diagnosis"]
        rows.append(("diagnosis", f"{found['kind']}: {found['evidence'][0]}"))
    if trainer.loggers and isinstance(trainer.logger, RunLogger):
        rows.append(("run", as_typed(Path(trainer.logger.log_dir))))
    return rows
