"""Commands of ``compare.py``."""

from pathlib import Path

from studies.commands import FAILED, print_found, say, show_parser
from studies.compare.advice import advice_parser, advise
from studies.compare.comparison_definition import comparison_parser
from studies.compare.comparison_report import (
    everything_failed,
    results_table,
    summary,
    write_report,
)
from studies.compare.comparison_study import ComparisonStudy, from_files, report, run
from studies.compare.comparison_table import Comparison, rows
from studies.study import facts_of, folder_of, has_storage


def _compare(args: list[str]) -> None:
    settings = comparison_parser().parse_args(args)
    done = run(settings, ["python", "compare.py", *args])
    failed = [_print(comparison.collected(), comparison.folder) for comparison in done]
    if failed[0]:
        raise SystemExit(FAILED)


def _show(args: list[str]) -> None:
    options = show_parser("compare.py", "runs/compare").parse_args(args)
    folder = folder_of(options.study, options.runs_dir)
    if options.storage is None and not has_storage(folder):
        found = from_files(folder)
        write_report(found, folder, facts_of(folder))
    else:
        found = report(ComparisonStudy.find(options.study, options.storage, options.runs_dir))
    _print(found, folder)


def _advise(args: list[str]) -> None:
    advise(advice_parser().parse_args(args), ["python", "compare.py", "advise", *args])


def _print(found: Comparison, folder: Path) -> bool:
    """Print what was found; tell whether all runs failed."""
    if failed := everything_failed(found):
        say(ComparisonStudy, failed)
    print_found(folder, results_table(found), summary(found, rows(found)), [])
    return failed is not None


COMMANDS = {"": _compare, "show": _show, "advise": _advise}
