"""One study on several machines: a PostgreSQL server that the test starts, and real searches."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
import yaml
from optuna.trial import TrialState

import search
import studies.queue.queue
from foundation.errors import UserError
from studies.queue import patience
from studies.queue.patience import StorageAway
from studies.queue.queue import Queue, create_or_load
from studies.queue.storage import alone, open_storage

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

REPOSITORY = Path(__file__).parents[3]
PASSWORD = "open:se@same"
PATIENCE = 240
TRIALS = 60  # more than one process runs while three others start


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


class Server:
    """A PostgreSQL server with an empty database that asks for a password."""

    def __init__(self) -> None:
        self.programs = binaries()
        self.user: dict[str, Any] = {}
        self.folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        if os.getuid() == 0:  # as whom PostgreSQL refuses to run
            names = {entry.pw_name for entry in pwd.getpwall()}
            name = "postgres" if "postgres" in names else "nobody"
            self.user = {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}
            shutil.chown(self.folder, name)
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        self.port = free_port()
        who = ["-U", "me", "-A", "scram-sha-256", "--pwfile", str(self.folder / "password")]
        subprocess.run(
            [str(self.programs / "initdb"), "-D", str(self.folder / "data"), *who, "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **self.user,
        )
        parts = ("postgresql+psycopg", "me", PASSWORD, "127.0.0.1", self.port, "postgres")
        self.parsed = sqlalchemy.URL.create(*parts)
        self.url = self.parsed.render_as_string(hide_password=False)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        options = ["-p", str(self.port), "-k", str(self.folder), "-F"]
        options += ["-c", "listen_addresses=127.0.0.1"]
        with (self.folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.folder / "data", *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self.user,
            )
        engine = sqlalchemy.create_engine(self.parsed)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, (self.folder / "log.txt").read_text()
            with suppress(sqlalchemy.exc.OperationalError), engine.connect():
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        engine.dispose()

    def stop(self, number: int = signal.SIGINT) -> None:
        """A fast shutdown; SIGQUIT for one that is as good as a crash."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder)


@pytest.fixture
def server(running: Server) -> str:
    """The URL of a server that answers; a test may have stopped it."""
    if running.process is None:
        running.start()
    return running.url


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
        "from studies.queue.storage import alone\n"
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


# A server that goes away and comes back.


def close_connections(server: str) -> None:
    """Have the server close all but this one."""
    engine = sqlalchemy.create_engine(server)
    others = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where pid <> "
    with engine.connect() as connection:
        connection.execute(
            sqlalchemy.text(f"{others} pg_backend_pid() and backend_type = 'client backend'")
        )
    engine.dispose()


def life_of_trials(queue: Queue) -> None:
    """All that a queue does: three trials are filled in, one of them given back, and a fourth."""

    def fill() -> None:
        with alone(queue.storage.engine):
            queue.fill([{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}])

    queue.storage.patience(fill)
    first = queue.take()
    assert first is not None
    queue.give_back(first)
    while (trial_id := queue.take()) is not None:
        trial = optuna.Trial(queue.study, trial_id)
        trial.suggest_float("lr", 0, 1)
        queue.storage.set_trial_intermediate_value(trial_id, 1, 0.25)
        queue.finish(trial_id, TrialState.COMPLETE, 0.5, {"epochs": trial.number})
    last = queue.take(create=True)
    assert last is not None
    queue.finish(last, TrialState.FAIL, None, {"reason": "none"})


def assert_all_once(queue: Queue) -> None:
    study = optuna.load_study(study_name=queue.study.study_name, storage=queue.storage)
    found = study.trials
    assert [t.number for t in found] == [0, 1, 2, 3]
    assert [t.state.name for t in found] == ["COMPLETE"] * 3 + ["FAIL"]
    assert [t.value for t in found] == [0.5, 0.5, 0.5, None]
    assert [t.system_attrs["fixed_params"]["lr"] for t in found[:3]] == [0.1, 0.2, 0.3]
    assert [t.params for t in found[:3]] == [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}]
    assert [t.intermediate_values for t in found] == [{1: 0.25}] * 3 + [{}]
    assert [t.user_attrs["tries"] for t in found] == [1] * 4
    assert [t.user_attrs.get("epochs") for t in found] == [0, 1, 2, None]


@contextmanager
def joined(url: str, name: str, folder: Path) -> Iterator[Queue]:
    storage = open_storage(url)
    try:
        with Queue(create_or_load(storage, name, "maximize"), folder) as queue:
            yield queue
    finally:
        storage.engine.dispose()


@pytest.mark.parametrize(
    "stride", [pytest.param(40, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.long)]
)
def test_connections_that_are_closed_before_any_statement(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], stride: int
) -> None:
    """At every statement that a queue makes, or some of them, in a study each."""
    statements, cut = 0, 0

    def close(*_: Any) -> None:
        nonlocal statements
        statements += 1
        if statements == cut:
            close_connections(server)

    while cut <= statements:
        statements, cut = 0, cut + stride
        with joined(server, f"cut {stride} {cut}", tmp_path) as queue:
            sqlalchemy.event.listen(queue.storage.engine, "before_cursor_execute", close)
            life_of_trials(queue)
            assert_all_once(queue)
    assert cut > 100
    assert capsys.readouterr().err == ""  # nobody had to wait


class Wire:
    """A connection's way to the server, on which the answer to a COMMIT may get lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.commits = self.lost = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, server: str) -> str:
        port = self.socket.getsockname()[1]
        return sqlalchemy.make_url(server).set(port=port).render_as_string(hide_password=False)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self.socket.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                lose = threading.Event()
                for ends in ((client, server, lose, True), (server, client, lose, False)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(
        self, source: socket.socket, target: socket.socket, lose: threading.Event, asks: bool
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if asks and b"COMMIT" in data:
                    self.commits += 1
                    if self.commits == self.lost:
                        lose.set()
                if not asks and lose.is_set():
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize("stride", [10, pytest.param(3, marks=pytest.mark.long)])
def test_commits_whose_answer_is_lost(
    server: str,
    running: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stride: int,
) -> None:
    """Done, as far as the server knows, and unknown here: nothing is done twice."""
    wire = Wire(running.port)
    number = 0
    while number <= wire.commits:
        wire.lost = 0
        number += stride
        with joined(wire.url(server), f"lost {stride} {number}", tmp_path) as queue:
            wire.commits, wire.lost = 0, number
            life_of_trials(queue)
            assert_all_once(queue)
    wire.socket.close()
    assert number > 30
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_queue_waits_for_a_server_that_restarts(
    server: str,
    running: Server,
    tmp_path: Path,
    number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with joined(server, f"restart {number}", tmp_path) as queue:
        queue.fill([{"lr": 0.1}])
        trial_id = queue.take()
        assert trial_id is not None
        with queue.working_on(trial_id):
            running.stop(number)
            again = threading.Timer(1.5, running.start)
            again.start()
            queue.finish(trial_id, TrialState.COMPLETE, 0.5)
            again.join()
        (trial,) = queue.trials()
        assert (trial.state, trial.user_attrs["tries"]) == (TrialState.COMPLETE, 1)
    away, back = capsys.readouterr().err.splitlines()
    assert away.startswith("the storage is away (")
    assert away.endswith("; trying again for 5 minutes")
    assert PASSWORD not in away
    assert back.startswith("the storage is back after ")


def test_patience_comes_to_an_end(
    server: str, running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is there again once the server is."""
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    with joined(server, "end", tmp_path) as queue:
        queue.fill([{"lr": 0.1}])
        running.stop()
        began = time.monotonic()
        with pytest.raises(StorageAway):
            queue.take()
        assert time.monotonic() - began > 1
        for _ in range(20):  # what still wants to be done on the way out
            with pytest.raises(StorageAway):
                queue.take()
        assert time.monotonic() - began < 20
        running.start()
        assert queue.take() is not None
        close_connections(server)
        queue.trials()


def test_nobody_is_thought_dead_for_the_time_that_the_server_was(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with joined(server, "silent", tmp_path) as one, joined(server, "silent", tmp_path) as two:
        one.fill([{"lr": 0.1}])
        trial_id = one.take()
        assert trial_id is not None
        owner = {"host": "elsewhere", "lock": "/on/another/machine.lock", "pid": 1}
        one.storage.set_trial_user_attr(trial_id, "owner", owner)
        with one.storage.engine.begin() as connection:
            old = "update trial_heartbeats set heartbeat = now() - interval '2 minutes'"
            connection.execute(sqlalchemy.text(old))
        assert two.take() is None  # the server began less than a minute ago
        monkeypatch.setattr(studies.queue.queue, "GRACE", 0)
        assert two.take() == trial_id


def test_a_process_that_joins_waits_for_the_server(
    server: str, running: Server, tmp_path: Path
) -> None:
    """A worker, or a training of several processes, which another process has started."""
    running.stop()
    with pytest.raises(UserError, match="refused"):
        open_storage(server)
    again = threading.Timer(1, running.start)
    again.start()
    open_storage(server, patient=True).engine.dispose()
    again.join()


@pytest.mark.slow
def test_a_search_goes_on_after_a_restart(server: str, running: Server, place: Path) -> None:
    process = start("--config=shared.yaml", f"--storage={server}", "--name=on", "--n_trials=6")
    wait_for(lambda: states(server, "on").count("COMPLETE") >= 2, process)
    wait_for(lambda: "RUNNING" in states(server, "on"), process)
    running.stop()
    time.sleep(1.5)
    running.start()
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    assert [line.partition(" (")[0].partition(" after")[0] for line in error.splitlines()] == [
        "the storage is away",
        "the storage is back",
    ]
    assert "6 trials: 6 completed." in out
    trials = optuna.load_study(study_name="on", storage=server).trials
    assert [trial.user_attrs["tries"] for trial in trials] == [1] * 6
    assert [set(trial.intermediate_values) for trial in trials] == [{1, 2}] * 6


@pytest.mark.long
def test_workers_go_on_after_a_restart(server: str, running: Server, place: Path) -> None:
    options = [f"--storage={server}", "--name=workers", "--n_trials=16", "--workers=2"]
    process = start("--config=shared.yaml", *options)
    wait_for(lambda: states(server, "workers").count("RUNNING") == 2, process)
    running.stop(signal.SIGQUIT)
    time.sleep(1.5)
    running.start()
    out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, error
    assert "16 trials: 16 completed." in out
    trials = optuna.load_study(study_name="workers", storage=server).trials
    assert [trial.user_attrs["tries"] for trial in trials] == [1] * 16


@pytest.mark.slow
def test_an_interruption_does_not_wait_for_the_server(
    server: str, running: Server, place: Path
) -> None:
    """And the same command goes on when it is back, exactly."""
    options = ["--config=shared.yaml", f"--storage={server}", "--name=stop", "--n_trials=4"]
    process = start(*options)
    wait_for(lambda: "RUNNING" in states(server, "stop"), process)
    running.stop()
    assert process.stderr is not None
    assert process.stderr.readline().startswith("the storage is away (")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, error = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 30  # of five minutes; on an idle machine it takes one second
    assert (process.returncode, error) == (
        130,
        "search.py: interrupted by SIGINT; the same command goes on from here\n",
    )
    running.start()
    process = start(*options)
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (0, "")
    assert "4 trials: 4 completed." in out


def states(server: str, name: str) -> list[str]:
    """The trials' states; nothing where there is no study yet."""
    engine = sqlalchemy.create_engine(server)
    query = "select state from trials join studies using (study_id) where study_name = :name"
    try:
        with engine.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query), {"name": name}).scalars())
    except sqlalchemy.exc.ProgrammingError:
        return []
    finally:
        engine.dispose()
