"""One study on several machines: a PostgreSQL server that the test starts, and real searches."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
import yaml

import search
from studies.queue.queue import Queue, alone, create_or_load, open_storage

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REPOSITORY = Path(__file__).parents[3]
PASSWORD = "open:se@same"
PATIENCE = 90
TRIALS = 30  # more than one process runs while three others start


def binaries() -> Path:
    """The folder of PostgreSQL's programs.

    Skips the test where there is none.
    """
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [
        Path(path) for path in [shutil.which("initdb")] if path
    ]
    if not found:
        pytest.skip("PostgreSQL's initdb is neither in PATH nor under /usr/lib/postgresql")
    return found[-1].parent


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty database that asks for a password."""
    programs = binaries()
    user: dict[str, Any] = {}
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    if os.getuid() == 0:  # as whom PostgreSQL refuses to run
        names = {entry.pw_name for entry in pwd.getpwall()}
        name = "postgres" if "postgres" in names else "nobody"
        user = {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
        shutil.chown(folder, name)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    data, port = folder / "data", free_port()
    who = ["-U", "me", "-A", "scram-sha-256", "--pwfile", str(folder / "password")]
    subprocess.run(
        [str(programs / "initdb"), "-D", str(data), *who, "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=folder,
        **user,
    )
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-F"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, *options],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
            **user,
        )
    try:
        base = sqlalchemy.URL.create(
            "postgresql+psycopg", "me", PASSWORD, "127.0.0.1", port, "postgres"
        )
        engine = sqlalchemy.create_engine(base)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, (folder / "log.txt").read_text()
            with suppress(sqlalchemy.exc.OperationalError), engine.connect():
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        engine.dispose()
        yield base.render_as_string(hide_password=False)
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown
        process.wait(PATIENCE)
        shutil.rmtree(folder)


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = {"root": str(data_root), "train_fraction": 0.01}
    base = {
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "limit_val_batches": 1},
        "model": {"class_path": "MLP"},
        "data": {"class_path": "FashionMNISTDataModule", "init_args": data},
    }
    study = {
        "base": ["base.yaml"],
        "sampler": {"class_path": "optuna.samplers.TPESampler", "init_args": {"seed": 1}},
        "space": {"model.init_args.optimizer.init_args.lr": {"low": 0.001, "high": 0.1}},
        "n_trials": TRIALS,
        "confirmation_seeds": [],
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "shared.yaml").write_text(yaml.safe_dump(study))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "search.py"), *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


@pytest.mark.slow
def test_two_machines_share_a_study_and_one_worker_is_killed(server: str, place: Path) -> None:
    """They start at once on an empty database; together they run as many trials as asked for."""
    options = ["--config=shared.yaml", f"--storage={server}"]
    one = start(*options, "--workers=3", "--runs_dir=one")
    two = start(*options, "--runs_dir=two")
    engine = sqlalchemy.create_engine(server)
    owners = sqlalchemy.text(
        "select value_json::json->>'lock', (value_json::json->>'pid')::int "
        "from trial_user_attributes a join trials t using (trial_id) "
        "where a.key = 'owner' and t.state = 'RUNNING'"
    )

    def victim() -> int | None:
        with suppress(sqlalchemy.exc.ProgrammingError), engine.connect() as connection:
            found = connection.execute(owners).all()
            return next((pid for lock, pid in found if f"{place}/one/" in lock), None)
        return None

    os.kill(wait_for(victim, one), signal.SIGKILL)
    outputs = [process.communicate(timeout=PATIENCE) for process in (one, two)]
    assert [process.returncode for process in (one, two)] == [0, 0], outputs
    engine.dispose()

    study = optuna.load_study(study_name="shared", storage=server)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * TRIALS
    assert len({tuple(trial.params.values()) for trial in study.trials}) == TRIALS
    assert sum(trial.user_attrs["tries"] for trial in study.trials) == TRIALS + 1
    locks = {trial.user_attrs["owner"]["lock"].rpartition("/workers/")[0] for trial in study.trials}
    assert locks == {str(place / machine / "shared") for machine in ("one", "two")}
    for machine, (out, error) in zip(("one", "two"), outputs, strict=True):
        assert error == ""
        assert f"{TRIALS} trials: {TRIALS} completed." in out
        for path in (place / machine).rglob("*"):
            if path.is_file():
                assert PASSWORD.encode() not in path.read_bytes(), path
                assert b"%40same" not in path.read_bytes(), path
        assert ":***@" in (place / machine / "shared" / "study.yaml").read_text()


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_dead_process_lets_the_next_one_in(server: str, place: Path) -> None:
    """Killed while it alone may change the queue."""
    code = (
        "import sys, sqlalchemy\n"
        "from studies.queue.queue import alone\n"
        "with alone(sqlalchemy.create_engine(sys.argv[1])):\n"
        "    print('in', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    engine = sqlalchemy.create_engine(server)
    locked = sqlalchemy.text("select count(*) from pg_locks where locktype = 'advisory'")
    with engine.connect() as connection:
        assert connection.execute(locked).scalar() == 1
    holder.kill()
    holder.communicate()
    with alone(engine), engine.connect() as connection:
        assert connection.execute(locked).scalar() == 1
    engine.dispose()


def test_a_refused_password_is_not_printed(
    server: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = sqlalchemy.make_url(server).set(password="wr0ng").render_as_string(False)
    with pytest.raises(SystemExit) as ended:
        search.main(["--config=shared.yaml", f"--storage={wrong}"])
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert error.count("\n") == 1
    assert "password authentication failed" in error
    assert "wr0ng" not in error
    assert not (place / "runs").exists()


def test_a_queue_on_a_server(server: str, tmp_path: Path) -> None:
    """Two connections take one trial each; a lost one is refused."""
    storages = [open_storage(server) for _ in range(2)]
    queues = [Queue(create_or_load(s, "queue", "maximize"), tmp_path) for s in storages]
    with queues[0] as first, queues[1] as second:
        first.fill([{"lr": 0.1}, {"lr": 0.2}])
        second.fill([{"lr": 0.1}, {"lr": 0.2}])
        assert len(first.trials()) == 2
        assert {first.take(), second.take()} == {t._trial_id for t in first.trials()}
        assert first.take() is None
    assert {trial.state.name for trial in queues[0].trials()} == {"WAITING"}
    for storage in storages:
        storage.engine.dispose()
