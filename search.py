"""Search hyper-parameters: ``python search.py --config configs/search/grid.yaml``.

The same command goes on after an interruption, and on further machines with ``--storage``.
``python search.py show --study runs/search/grid`` prints the results again.
"""

import torchvision_cpu  # noqa: F401  isort: skip  (before anything that imports torchvision)

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Literal

import optuna
from rich.console import Console

from command_line import Parser
from errors import UserError
from studies.definition import settings_parser
from studies.search import Search, confirmed, find, report, run, run_child, run_worker
from studies.search_report import confirmation_lines, summary, trials_table
from train import quiet

INTERRUPTED = 130  # the shell's exit status of a command that Ctrl-C ended


def main(args: list[str] | None = None) -> None:
    """Run a command line, e.g. ``main(["--config", "configs/search/grid.yaml"])``.

    Args:
        args: the command line, without the program's name; None for ``sys.argv``.

    Raises:
        SystemExit: with a line that says what is wrong, or after an interruption.
    """
    given = sys.argv[1:] if args is None else args
    quiet()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    earlier = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end: end like Ctrl-C
    try:
        if given[:1] == ["worker"]:
            run_worker(_worker_parser().parse_args(given[1:]), os.getppid())
        elif given[:1] == ["trial"]:
            run_child(_worker_parser().parse_args(given[1:]))
        elif given[:1] == ["show"]:
            _show(given[1:])
        else:
            _search(given)
    except UserError as error:
        print(f"search.py: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code in (0, None):
            raise  # --help
        print("search.py: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, earlier)  # Lightning ignores it after an interruption
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _search(args: list[str]) -> None:
    settings = settings_parser().parse_args(args)
    run(settings, ["python", "search.py", *args])
    name = settings.name or Path(str(settings.config[0])).stem
    _print(find(name, settings.storage, settings.runs_dir))


def _show(args: list[str]) -> None:
    parser = Parser(prog="search.py show", description="Print a study's results again.")
    parser.add_argument("--study", type=str, required=True, help="Its folder, or its name.")
    parser.add_argument("--storage", type=str | None, help="Where it is not a SQLite file.")
    parser.add_argument("--runs_dir", type=str, default="runs/search", help="Of all studies.")
    options = parser.parse_args(args)
    search = find(options.study, options.storage, options.runs_dir)
    study, definition = search.load()
    report(search, study, definition)
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


def _worker_parser() -> Parser:
    """Of the processes that search.py starts: ``worker`` (--workers) and ``trial`` (DDP)."""
    parser = Parser(prog="search.py worker")
    for name in ("storage", "name", "folder", "study"):
        parser.add_argument(f"--{name}", type=str, required=True)
    parser.add_argument("--kind", type=Literal["trials", "confirmation"], default="trials")
    parser.add_argument("--seconds", type=float | None)
    parser.add_argument("--trial", type=int | None)
    parser.add_argument("--endless", type=bool, default=False)
    return parser


if __name__ == "__main__":
    main()
