"""Compare techniques over seeds: ``python compare.py --config configs/compare/optimizers.yaml``.

The same command goes on after an interruption, and on further machines with ``--storage``.
``python compare.py show --study runs/compare/optimizers`` prints the results again.
``python compare.py advise --config configs/baseline_cnn.yaml`` tunes a configuration.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)
import studies  # noqa: F401  isort: skip  (its imports have an order, too)

from rich.console import Console

from studies.commands import answer, show_parser
from studies.compare.advice import advice_parser, advise
from studies.compare.comparison import settings_parser
from studies.compare.comparison_report import results_table, summary
from studies.compare.comparison_study import ComparisonStudy, report, run
from studies.compare.paired_statistics import rows


def main(args: list[str] | None = None) -> None:
    """Run a command line, e.g. ``main(["--config", "configs/compare/optimizers.yaml"])``.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.

    Raises:
        SystemExit: with a line that says what is wrong, or after an interruption.
    """
    answer(ComparisonStudy, args, {"": _compare, "show": _show, "advise": _advise})


def _compare(args: list[str]) -> None:
    settings = settings_parser().parse_args(args)
    _print(run(settings, ["python", "compare.py", *args]))


def _show(args: list[str]) -> None:
    options = show_parser("compare.py", "runs/compare").parse_args(args)
    comparison = ComparisonStudy.find(options.study, options.storage, options.runs_dir)
    report(comparison)
    _print(comparison)


def _advise(args: list[str]) -> None:
    advise(advice_parser().parse_args(args), ["python", "compare.py", "advise", *args])


def _print(comparison: ComparisonStudy) -> None:
    """What was found, where it lies, what to type next."""
    found = comparison.collected()
    console = Console()
    console.print(results_table(found))
    lines = [*summary(found, rows(found)), f"report: {comparison.folder / 'report.html'}"]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print("next", style="bold")
    command = f"  tensorboard --logdir {comparison.folder}"
    console.print(command, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
