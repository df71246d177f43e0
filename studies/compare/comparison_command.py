"""Commands of ``compare.py``."""

from studies.commands import print_found, show_parser
from studies.compare.advice import advice_parser, advise
from studies.compare.comparison_definition import comparison_parser
from studies.compare.comparison_report import results_table, summary
from studies.compare.comparison_study import ComparisonStudy, report, run
from studies.compare.paired_statistics import rows


def _compare(args: list[str]) -> None:
    settings = comparison_parser().parse_args(args)
    _print(run(settings, ["python", "compare.py", *args]))


def _show(args: list[str]) -> None:
    options = show_parser("compare.py", "runs/compare").parse_args(args)
    comparison = ComparisonStudy.find(options.study, options.storage, options.runs_dir)
    report(comparison)
    _print(comparison)


def _advise(args: list[str]) -> None:
    advise(advice_parser().parse_args(args), ["python", "compare.py", "advise", *args])


def _print(comparison: ComparisonStudy) -> None:
    found = comparison.collected()
    print_found(comparison.folder, results_table(found), summary(found, rows(found)), [])


COMMANDS = {"": _compare, "show": _show, "advise": _advise}
