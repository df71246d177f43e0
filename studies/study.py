"""A stored study: its folder on this machine, its storage and its processes."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import lightning
import optuna
import torch
import yaml
from jsonargparse import Namespace

from foundation.checkout import ROOT, git_commit
from foundation.errors import UserError
from foundation.interruption import end_with
from foundation.machine import cores, processor
from foundation.run_folder import program
from foundation.whole_file import write
from foundation.yaml_text import load_yaml
from studies.progress import StudyProgress
from studies.queue.queue import Queue
from studies.queue.storage import open_storage, without_password
from studies.queue.workers import Workers, work
from studies.runner import Runner
from studies.training import config_keys

_FACTS = ("command", "machine", "versions", "commit")
STORAGE = "STUDY_STORAGE"  # environment variable: the URL of the storage, for further processes


D = TypeVar("D")


class StoredStudy(Generic[D]):
    """A study, its folder and its storage.

    Args:
        name: of the study in the storage.
        folder: of the study on this machine.
        storage: URL; the folder's own SQLite file unless given.
        patient: see :func:`open_storage`.
    """

    program: ClassVar[str]  # the command line that works on such studies
    definition_type: type[D]  # what says what the study is
    own_setting: ClassVar[str]  # that no study of the other program's has

    def __init__(
        self, name: str, folder: Path, storage: str | None, *, patient: bool = False
    ) -> None:
        self.name = name
        self.folder = folder
        self.url = storage or f"sqlite:///{(folder / 'study.db').resolve()}"
        if not storage:
            folder.mkdir(parents=True, exist_ok=True)
        self.storage = open_storage(self.url, patient=patient)

    @classmethod
    def find(cls, study: str, storage: str | None, runs_dir: str) -> Self:
        """The study in a folder, or of a name under ``runs_dir``.

        Raises:
            UserError: there is none.
        """
        folder = folder_of(study, runs_dir)
        place = _place(folder)
        return cls(place["name"], folder, storage or place["storage"])

    def study(self) -> optuna.Study:
        """The study itself.

        Raises:
            UserError: there is no such study.
        """
        try:
            return optuna.load_study(study_name=self.name, storage=self.storage)
        except KeyError as error:
            there = ", ".join(
                name for name in optuna.get_all_study_names(self.storage) if "/" not in name
            )
            raise UserError(
                f"there is no study {self.name} in {without_password(self.url)}; "
                f"there {'are ' + there if there else 'is none'}"
            ) from error

    def load(self) -> tuple[optuna.Study, D]:
        """The study and its definition.

        Raises:
            UserError: there is no such study, or it is one of the other program's.
        """
        study = self.study()
        definition = self._definition(study)
        if definition is None:
            raise UserError(f"study {self.name} in {without_password(self.url)} was never begun")
        return study, definition

    def begun(self, study: optuna.Study) -> D | None:
        """The definition that a study was begun with; None for a new one.

        Raises:
            UserError: it is one of the other program's, or the storage has lost what the folder is
                about.
        """
        definition = self._definition(study)
        if definition is None and (self.folder / "study.yaml").is_file():
            raise UserError(
                f"{self.folder} is of a study that is not in {without_password(self.url)}: a new "
                "one would overwrite its runs and its report; bring its storage back, choose "
                "another --name, or move that folder away"
            )
        return definition

    def _definition(self, study: optuna.Study) -> D | None:
        there = study.user_attrs.get("definition")
        if there is None:
            return None
        if self.own_setting not in there:
            other = "compare.py" if self.program == "search.py" else "search.py"
            raise UserError(
                f"study {self.name} in {without_password(self.url)} is one of {other}'s, not of "
                f"{self.program}'s; show it with {program(other)} show, or choose another --name"
            )
        return self.definition_type(**there)

    def save(self, storage: str | None, command: Sequence[str]) -> None:
        """Write what :meth:`find` and :meth:`facts` need; no password goes into a file."""
        place = {
            "name": self.name,
            "storage": without_password(storage) if storage else None,
            "command": shlex.join(map(without_password, command)),
            "machine": f"{cores()} cores of {processor()}, {torch.get_num_threads()} threads",
            "versions": f"python {platform.python_version()}, torch {torch.__version__}, "
            f"lightning {lightning.__version__}, optuna {optuna.__version__}",
            "commit": git_commit() or "unknown",
        }
        write(self.folder / "study.yaml", yaml.safe_dump(place, sort_keys=False, width=1000))

    def facts(self) -> dict[str, str]:
        """Command, machine, versions and commit of the last work on the study."""
        return facts_of(self.folder)

    def runner(self, queue: Queue, kind: str) -> Runner:
        """The runner of the trials of one of the study's queues."""
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        """Of further processes; a password on a command line anybody could read."""
        return {**os.environ, STORAGE: self.url}

    def command(self, what: str, queue: Queue, kind: str) -> list[str]:
        """Of a further process: ``worker``, or ``trial``."""
        return [
            sys.executable,
            str(ROOT / self.program),
            what,
            f"--name={self.name}",
            f"--folder={self.folder}",
            f"--study={queue.study.study_name}",
            f"--kind={kind}",
        ]

    def work_on(
        self,
        queue: Queue,
        kind: str,
        progress: StudyProgress,
        *,
        workers: int,
        deadline: float | None = None,
        endless: bool = False,
    ) -> None:
        """Run a queue's trials, here or in several processes, and show how they end."""
        with progress:

            def show() -> None:
                progress.update(queue.trials())

            show()
            if workers == 1:
                runner = self.runner(queue, kind)
                work(queue, runner, deadline=deadline, create=endless, after=show)
                return
            command = self.command("worker", queue, kind)
            if deadline is not None:
                command += [f"--seconds={deadline - time.monotonic()}"]
            if endless:
                command += ["--endless=true"]
            log = self.folder / "workers" / "log.txt"
            processes = Workers(workers, command, self.environment, log)
            try:
                processes.watch(queue, show)
            finally:
                processes.stop()
                show()

    @classmethod
    def worker(cls, options: Namespace) -> None:
        """The command ``worker``: work on a queue that another process has filled."""
        end_with(options.parent)
        queue, runner = cls._attach(options)
        deadline = None if options.seconds is None else time.monotonic() + options.seconds
        work(queue, runner, deadline=deadline, create=options.endless)

    @classmethod
    def child(cls, options: Namespace) -> None:
        """The command ``trial``: train one trial in several processes."""
        # Lightning starts all but the first.
        end_with(options.parent if "LOCAL_RANK" not in os.environ else os.getppid())
        _, runner = cls._attach(options)
        runner.run_child(options.trial)

    @classmethod
    def _attach(cls, options: Namespace) -> tuple[Queue, Runner]:
        stored = cls(options.name, Path(options.folder), os.environ[STORAGE], patient=True)
        study = optuna.load_study(study_name=options.study, storage=stored.storage)
        queue = Queue(study, stored.folder)
        return queue, stored.runner(queue, options.kind)


def folder_of(study: str, runs_dir: str) -> Path:
    """The folder of a study: itself, or of that name under ``runs_dir``.

    Raises:
        UserError: there is none.
    """
    for folder in (Path(study), Path(runs_dir, study)):
        if (folder / "study.yaml").is_file():
            return folder
    there = sorted(str(path.parent) for path in Path(runs_dir).glob("*/study.yaml"))
    raise UserError(
        f"--study {study}: there is no study.yaml in such a folder; "
        + (f"there are {', '.join(there)}" if there else f"there is no study in {runs_dir}")
    )


def facts_of(folder: Path) -> dict[str, str]:
    """Command, machine, versions and commit of the last work on the study in a folder."""
    place = _place(folder)
    return {name: place[name] for name in _FACTS}


def has_storage(folder: Path) -> bool:
    """Tell whether a study's storage is there, or elsewhere; else only its files are."""
    return _place(folder)["storage"] is not None or (folder / "study.db").is_file()


def _place(folder: Path) -> dict[str, Any]:
    """The facts that :meth:`StoredStudy.save` wrote.

    Raises:
        UserError: the file holds something else.
    """
    path = folder / "study.yaml"
    try:
        place = load_yaml(path.read_text())
        texts = [place[name] for name in ("name", *_FACTS)]
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not what a study wrote ({type(error).__name__})") from error
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: not what a study wrote; expected texts")
    return {"storage": None, **place}


def check_same(folder: Path, was: Any, now: Any, names: Sequence[str]) -> None:
    """Refuse to go on with a study that was begun as another one.

    Args:
        folder: of the study.
        was, now: definitions.
        names: of the attributes that must not change.

    Raises:
        UserError: names the first one that did.
    """
    for name in names:
        if getattr(was, name) != getattr(now, name):
            what = _first_difference(name, getattr(was, name), getattr(now, name))
            raise UserError(
                f"{folder} holds a study with another value of {what}: its trials cannot be "
                "compared with new ones; choose another --name, or remove that folder"
            )


def _first_difference(name: str, was: Any, now: Any) -> str:
    """The first difference of two settings, in words."""
    if name in ("config", "full_config"):  # complete configurations
        was, now, name = config_keys(was), config_keys(now), ""
    if isinstance(was, dict) and isinstance(now, dict):
        leaves = [key for key in [*was, *now] if not isinstance(was.get(key), dict) or not name]
        key = next(key for key in leaves or was if was.get(key) != now.get(key))
        deepest = [k for k in leaves if str(k).startswith(f"{key}.") and was.get(k) != now.get(k)]
        key = max(deepest, key=len, default=key)
        name, was, now = f"{name}: {key}" if name else str(key), was.get(key), now.get(key)
    return f"{name} ({was} then, {now} now)"
