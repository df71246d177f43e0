"""Commands of ``search.py``."""

from foundation.run_folder import program
from studies.commands import FAILED, print_found, say, show_parser
from studies.search.search_definition import search_parser
from studies.search.search_report import (
    confirmation_lines,
    everything_failed,
    summary,
    trials_table,
)
from studies.search.search_study import Search, confirmed, report, run


def _search(args: list[str]) -> None:
    settings = search_parser().parse_args(args)
    if _print(run(settings, ["python", "search.py", *args])):
        raise SystemExit(FAILED)


def _show(args: list[str]) -> None:
    options = show_parser("search.py", "runs/search").parse_args(args)
    search = Search.find(options.study, options.storage, options.runs_dir)
    report(search, *search.load())
    _print(search)


def _print(search: Search) -> bool:
    """Print what was found; tell whether all trials failed."""
    study, _ = search.load()
    if failed := everything_failed(study):
        say(Search, failed)
    configs = (search.folder / name for name in ("best.yaml", "winner.yaml"))
    print_found(
        search.folder,
        trials_table(study, limit=20),
        [*summary(study), *confirmation_lines(confirmed(search, study))],
        [f"{program('train.py')} fit --config {config}" for config in configs if config.is_file()],
    )
    return failed is not None


COMMANDS = {"": _search, "show": _show}
