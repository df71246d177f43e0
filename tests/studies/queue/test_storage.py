"""Storages: those that are useless, those that are damaged, and what is said about them."""

import random
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages._rdb import models
from optuna.trial import TrialState

from foundation.errors import UserError
from studies.queue.queue import Queue, create_or_load
from studies.queue.storage import (
    PatientStorage,
    StorageDamagedError,
    open_storage,
    without_password,
)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

TABLES = sorted(models.BaseModel.metadata.tables)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A study of some pages in a SQLite file; half of its trials have ended."""
    path = tmp_path_factory.mktemp("whole") / "study.db"
    storage = open_storage(f"sqlite:///{path}")
    with Queue(create_or_load(storage, "study", "maximize"), path.parent) as queue:
        queue.study.set_user_attr("definition", {"config": "x" * 30_000})
        queue.fill([{"lr": value / 100} for value in range(20)])
        for _ in range(10):
            trial_id = queue.take()
            assert trial_id is not None
            queue.finish(trial_id, TrialState.COMPLETE, 0.5, {"curve": [0.125] * 300})
    storage.engine.dispose()
    return path.read_bytes()


@pytest.fixture
def file(content: bytes, tmp_path: Path) -> Path:
    """The study, to be damaged."""
    (tmp_path / "study.db").write_bytes(content)
    return tmp_path / "study.db"


def read(path: Path) -> int:
    """Read all that a study's report reads; the number of its trials."""
    storage = open_storage(f"sqlite:///{path}")
    try:
        study = optuna.load_study(study_name="study", storage=storage)
        assert isinstance(study.user_attrs, dict)
        return len(study.get_trials(deepcopy=False))
    finally:
        storage.engine.dispose()


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def no_database(path: Path) -> None:
    path.write_text("name,value\n" * 1000)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros_in_the_middle(path: Path) -> None:
    overwrite(path, 2 * 4096, bytes(path.stat().st_size - 3 * 4096))


@pytest.mark.parametrize("damage", [no_database, truncated, zeros_in_the_middle])
def test_a_damaged_file_is_named_and_left_as_it_is(
    damage: Callable[[Path], None], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(file)
    before = file.read_bytes()
    monkeypatch.chdir(file.parent)
    with pytest.raises(StorageDamagedError) as error:
        read(file)
    message = str(error.value)
    assert message.startswith("study.db: ")
    assert "mv study.db study.db.damaged && sqlite3 study.db.damaged .dump | sed" in message
    assert "\n" not in message
    assert "postgresql" not in message
    assert file.read_bytes() == before


@pytest.mark.parametrize("table", TABLES)
def test_a_lost_table_is_not_made_anew(table: str, file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute(f"drop table {table}")
    with pytest.raises(StorageDamagedError, match=f"there is no table {table}:"):
        read(file)
    with sqlite3.connect(file) as database:
        there = {name for (name,) in database.execute("select name from sqlite_master")}
    assert table not in there


def test_tables_that_a_killed_process_began_to_make_are_completed(file: Path) -> None:
    with sqlite3.connect(file) as database:
        for table in TABLES:
            empty = f"drop table {table}" if table == "trials" else f"delete from {table}"
            database.execute(empty)
    storage = open_storage(f"sqlite:///{file}")
    assert create_or_load(storage, "study", "maximize").get_trials() == []
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("version", "advice"), [("v2.6.0.a", "optuna storage upgrade"), ("v9", "pip install -U optuna")]
)
def test_tables_of_another_optuna_are_said_to_be(version: str, advice: str, file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute("update alembic_version set version_num = ?", (version,))
    with pytest.raises(UserError) as error:
        read(file)
    assert str(file) in str(error.value)
    assert advice in str(error.value)
    assert "$STORAGE_URL" not in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_anywhere_are_read_or_said_to_be_damaged(file: Path) -> None:
    """Whatever a few bytes of rubbish hit: a page's header, an index, a JSON, a state."""
    whole = file.read_bytes()
    generator = random.Random(0)
    damages: list[str] = []
    for _ in range(40):
        file.write_bytes(whole)
        overwrite(file, generator.randrange(100, len(whole) - 40), generator.randbytes(40))
        try:
            read(file)
        except StorageDamagedError as error:
            damages.append(str(error))
    assert 5 < len(damages) < 35
    assert not any("\n" in damage for damage in damages)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_the_command_of_the_message_recovers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be read, which for an overwritten index is all of it."""
    monkeypatch.chdir(file.parent)
    with sqlite3.connect(file) as database:
        (page,) = database.execute(
            "select rootpage from sqlite_master where name = 'ix_trials_study_id'"
        ).fetchone()
    overwrite(file, (page - 1) * 4096, bytes(4096))
    before = file.read_bytes()
    with pytest.raises(StorageDamagedError) as error:
        read(file)
    command = str(error.value).partition("go on with what can be read: ")[2].partition(" ; or")[0]
    assert shlex.split(command)[0] == "mv"
    subprocess.run(command, shell=True, check=True)
    assert read(file) == 20
    assert Path("study.db.damaged").read_bytes() == before


def test_only_postgresql_is_told_of_postgresql(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        open_storage(f"sqlite:///{tmp_path}/none/study.db")
    assert "postgresql+" not in str(error.value)
    assert "e.g. sqlite:////" in str(error.value)


def test_errors_of_a_statement_stay_what_they_are(file: Path) -> None:
    storage: PatientStorage = open_storage(f"sqlite:///{file}")
    with storage.engine.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError):
        connection.execute(sqlalchemy.text("selekt"))
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", "Connection refused"),
        ("postgresql+psycopg://me:sec:r/et@127.0.0.1:port/x", "port"),
        ("postgresql+psycopg://127.0.0.1:1/x?user=me&password=secret", "Connection refused"),
        ("postgresql+psycopg2://me:secret@127.0.0.1:1/x", "No module named 'psycopg2'"),
        ("mysql://me:secret@127.0.0.1/x", "neither postgresql nor sqlite"),
        ("nonsense", "Could not parse"),
        ("me:secret@127.0.0.1/x", "Could not parse"),
        ("sqlite://", "no file"),
        ("sqlite:////no/such/folder/study.db", "no file"),
    ],
)
def test_a_useless_storage_is_explained_in_a_line_without_password(url: str, reason: str) -> None:
    with pytest.raises(UserError) as error:
        open_storage(url)
    text = str(error.value)
    assert text.startswith("--storage ")
    assert reason in text
    assert "e.g." in text or "pip install" in text
    assert "\n" not in text
    assert "secret" not in text
    assert "sec:r" not in text


def test_only_the_password_is_left_out() -> None:
    url = "--storage=postgresql+psycopg://me:s%3A@ecret@host:5432/name"
    assert without_password(url) == "--storage=postgresql+psycopg://me:***@host:5432/name"
    for plain in ("sqlite:////tmp/study.db", "--space.lr={low: 0, high: 1}", "pg://me@host:1/x"):
        assert without_password(plain) == plain
