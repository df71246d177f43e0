"""Commands of ``compare.py``."""

from studies.commands import FAILED, print_found, say, show_parser
from studies.compare.advice import advice_parser, advise
from studies.compare.comparison_definition import comparison_parser
from studies.compare.comparison_report import everything_failed, results_table, summary
from studies.compare.comparison_study import ComparisonStudy, report, run
from studies.compare.paired_statistics import rows


def _compare(args: list[str]) -> None:
    settings = comparison_parser().parse_args(args)
    if _print(run(settings, ["python", "compare.py", *args])):
        raise SystemExit(FAILED)


def _show(args: list[str]) -> None:
    options = show_parser("compare.py", "runs/compare").parse_args(args)
    comparison = ComparisonStudy.find(options.study, options.storage, options.runs_dir)
    report(comparison)
    _print(comparison)


def _advise(args: list[str]) -> None:
    advise(advice_parser().parse_args(args), ["python", "compare.py", "advise", *args])


def _print(comparison: ComparisonStudy) -> bool:
    """Print what was found; tell whether all runs failed."""
    found = comparison.collected()
    if failed := everything_failed(found):
        say(ComparisonStudy, failed)
    print_found(comparison.folder, results_table(found), summary(found, rows(found)), [])
    return failed is not None


COMMANDS = {"": _compare, "show": _show, "advise": _advise}
