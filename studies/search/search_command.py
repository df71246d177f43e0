"""Commands of ``search.py``."""

from foundation.run_folder import program
from studies.commands import print_found, show_parser
from studies.search.search_definition import search_parser
from studies.search.search_report import confirmation_lines, summary, trials_table
from studies.search.search_study import Search, confirmed, report, run


def _search(args: list[str]) -> None:
    settings = search_parser().parse_args(args)
    _print(run(settings, ["python", "search.py", *args]))


def _show(args: list[str]) -> None:
    options = show_parser("search.py", "runs/search").parse_args(args)
    search = Search.find(options.study, options.storage, options.runs_dir)
    report(search, *search.load())
    _print(search)


def _print(search: Search) -> None:
    study, _ = search.load()
    configs = (search.folder / name for name in ("best.yaml", "winner.yaml"))
    print_found(
        search.folder,
        trials_table(study, limit=20),
        [*summary(study), *confirmation_lines(confirmed(search, study))],
        [f"{program('train.py')} fit --config {config}" for config in configs if config.is_file()],
    )


COMMANDS = {"": _search, "show": _show}
