"""Shared parts of ``search.py`` and ``compare.py``: errors, interruptions, closing lines."""

import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import optuna
from rich.console import Console
from rich.table import Table

from experiment.main import quiet
from foundation.disk import disk_reason
from foundation.errors import UserError
from foundation.interruption import Interrupted, interrupted, later
from foundation.parser import Parser
from studies.queue.storage import STORAGE_ERRORS, storage_reason
from studies.study import StoredStudy

FAILED = 1  # exit status of a command whose trials all failed


def answer(
    kind: type[StoredStudy],
    args: Sequence[str] | None,
    commands: Mapping[str, Callable[[list[str]], None]],
) -> None:
    """Run a command line.

    Args:
        kind: of the studies it is about.
        args: the command line, without the program's name; None for ``sys.argv``.
        commands: by their first word; "" for none.

    Raises:
        SystemExit: with a line that says what is wrong, or after an interruption.
    """
    given = list(sys.argv[1:] if args is None else args)
    quiet()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    everything = {
        **commands,
        "worker": lambda rest: kind.worker(_worker_parser(kind).parse_args(rest)),
        "trial": lambda rest: kind.child(_worker_parser(kind).parse_args(rest)),
    }
    named = bool(given) and given[0] in everything
    try:
        with later():
            everything[given[0] if named else ""](given[named:])
    except UserError as error:
        _fail(kind, str(error))
    except STORAGE_ERRORS as error:
        # One whose way out led past a storage that is away.
        if (interruption := interrupted(error)) is not None:
            _interrupted(kind, interruption)
        _fail(kind, f"the storage: {storage_reason(error)}; the same command goes on from here")
    except OSError as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        _fail(kind, f"{reason}; the same command goes on from here")
    except (Interrupted, SystemExit) as error:
        # Lightning may make an exit of an interruption; others are of --help or a closed pipe.
        if (interruption := interrupted(error)) is None:
            raise
        _interrupted(kind, interruption)


def _interrupted(kind: type[StoredStudy], interruption: Interrupted) -> NoReturn:
    say(kind, f"interrupted by {interruption}; the same command goes on from here")
    raise SystemExit(interruption.status) from None


def _fail(kind: type[StoredStudy], message: str) -> NoReturn:
    say(kind, f"error: {message}")
    raise SystemExit(2) from None


def say(kind: type[StoredStudy], message: str) -> None:
    """Print a line on stderr, ahead of what follows on stdout."""
    print(f"{kind.program}: {message}", file=sys.stderr, flush=True)


def print_found(
    folder: Path, table: Table, sentences: Sequence[str], commands: Sequence[str]
) -> None:
    """Print what a study found, where it lies and what to type next.

    Args:
        folder: of the study.
        table: its results.
        sentences: what they mean.
        commands: to type next, before TensorBoard's.
    """
    console = Console()
    console.print(table)
    for line in [*sentences, f"report: {folder / 'report.html'}"]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print("next", style="bold")
    for command in [*commands, f"tensorboard --logdir {folder}"]:
        console.print(f"  {command}", soft_wrap=True, highlight=False, markup=False)


def show_parser(program: str, runs_dir: str) -> Parser:
    """Of the command ``show``."""
    parser = Parser(prog=f"{program} show", description="Print a study's results again.")
    parser.add_argument("--study", type=str, required=True, help="Its folder, or its name.")
    parser.add_argument("--storage", type=str | None, help="Where it is not a SQLite file.")
    parser.add_argument("--runs_dir", type=str, default=runs_dir, help="Of all studies.")
    return parser


def _worker_parser(kind: type[StoredStudy]) -> Parser:
    """Of the further processes: ``worker`` (--workers) and ``trial`` (DDP)."""
    parser = Parser(prog=kind.program)
    for name in ("name", "folder", "study", "kind"):
        parser.add_argument(f"--{name}", type=str, required=True)
    parser.add_argument("--seconds", type=float | None)
    parser.add_argument("--trial", type=int | None)
    parser.add_argument("--parent", type=int, required=True, help="Ends where that has ended.")
    parser.add_argument("--endless", type=bool, default=False)
    return parser
