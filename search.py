"""Search hyper-parameters: ``python search.py --config configs/search/grid.yaml``.

The same command goes on after an interruption, and on further machines with ``--storage``.
``python search.py show --study runs/search/grid`` prints the results again.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)
import studies  # noqa: F401  isort: skip  (its imports have an order, too)

from rich.console import Console

from studies.commands import answer, show_parser
from studies.search.definition import settings_parser
from studies.search.search_report import confirmation_lines, summary, trials_table
from studies.search.search_study import Search, confirmed, report, run


def main(args: list[str] | None = None) -> None:
    """Run a command line, e.g. ``main(["--config", "configs/search/grid.yaml"])``.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.

    Raises:
        SystemExit: with a line that says what is wrong, or after an interruption.
    """
    answer(Search, args, {"": _search, "show": _show})


def _search(args: list[str]) -> None:
    settings = settings_parser().parse_args(args)
    _print(run(settings, ["python", "search.py", *args]))


def _show(args: list[str]) -> None:
    options = show_parser("search.py", "runs/search").parse_args(args)
    search = Search.find(options.study, options.storage, options.runs_dir)
    report(search, *search.load())
    _print(search)


def _print(search: Search) -> None:
    """What was found, where it lies, what to type next."""
    study, _ = search.load()
    console = Console()
    console.print(trials_table(study, limit=20))
    for line in [*summary(study), *confirmation_lines(confirmed(search, study))]:
        console.print(line, highlight=False, markup=False)
    console.print(f"report: {search.folder / 'report.html'}", soft_wrap=True, highlight=False)
    console.print("next", style="bold")
    best = search.folder / "best.yaml"
    commands = [f"python train.py fit --config {best}"] if best.is_file() else []
    if (search.folder / "winner.yaml").is_file():
        commands.append(f"python train.py fit --config {search.folder / 'winner.yaml'}")
    commands.append(f"tensorboard --logdir {search.folder}")
    for command in commands:
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
