"""The search's command line on real data: results, failures, interruptions, resuming, messages."""

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from optuna.trial import FrozenTrial, TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import compare
import search
import studies.queue.storage
import studies.search.search_study
import train
from studies.compare.comparison_runner import ComparisonRunner
from studies.runner import Outcome
from studies.search.search_definition import define, search_parser
from studies.search.search_runner import TrialRunner
from studies.training import EpochReport

REPOSITORY = Path(__file__).parent.parent
LR = "model.init_args.optimizer.init_args.lr"
WIDTH = "model.init_args.hidden_size"
FILES = {
    "base.yaml": """
        trainer: {accelerator: cpu, max_epochs: 3, limit_test_batches: 1, num_sanity_val_steps: 0}
        model:
          class_path: MLP
          init_args:
            hidden_size: 32
            optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.005}}
        data:
          class_path: FashionMNISTDataModule
          init_args: {root: ROOT, train_fraction: 0.02, batch_size: 64}
        """,
    "proxy.yaml": """
        trainer: {max_epochs: 2, limit_val_batches: 1}
        data: {init_args: {train_fraction: 0.01}}
        """,
}
COMMON = {"base": ["base.yaml"], "proxy": ["proxy.yaml"], "confirmation_seeds": []}
RATES = {LR: {"low": 0.001, "high": 0.1, "log": True}}
GRID = {
    **COMMON,
    "sampler": "optuna.samplers.GridSampler",
    "space": {WIDTH: {"choices": [4, 8, 16]}, LR: {"choices": [0.0001, 0.001, 0.01]}},
}


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and a proxy, in which the commands run."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text.replace("ROOT", str(data_root)))
    monkeypatch.chdir(tmp_path)
    # Figures take most of a short search's time, and have tests of their own.
    monkeypatch.setattr("studies.search.search_figures.FIGURES", {})
    return tmp_path


def write(name: str, **settings: Any) -> str:
    """The study's YAML; the option that names it."""
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**COMMON, **settings}, sort_keys=False))
    return f"--config={name}.yaml"


def trials(name: str, storage: str | None = None) -> list[FrozenTrial]:
    storage = storage or f"sqlite:///runs/search/{name}/study.db"
    return optuna.load_study(study_name=name, storage=storage).trials


def tried(name: str) -> list[tuple[dict[str, Any], Any]]:
    """What can be compared between two studies."""
    return [(trial.params, trial.values) for trial in trials(name)]


def ends(*args: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        search.main(list(args))
    return ended.value.code


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("search.py: ")
    assert error.count("\n") == 1
    return error


def report_rows(name: str) -> list[dict[str, str]]:
    with open(f"runs/search/{name}/trials.csv", newline="") as file:
        return list(csv.DictReader(file))


# What is found.


def test_a_search_from_trials_to_confirmation(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine cells: two train, one diverges, and the others ask for too much memory."""

    def on_train_start(self: Any) -> None:
        if len(next(self.parameters())) == 33:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1 TiB")

    monkeypatch.setattr("lightning_modules.MLP.on_train_start", on_train_start)
    study = write(
        "found",
        space={WIDTH: {"choices": [32, 10**13, 33]}, LR: {"choices": [0.01, 0.0001, 1e30]}},
        sampler={"class_path": "optuna.samplers.GridSampler"},
        confirmation_seeds=[0, 1],
    )
    search.main([study])
    out, error = capfd.readouterr()
    assert error == ""
    found = trials("found")
    by_cell = {(trial.params[WIDTH], trial.params[LR]): trial for trial in found}
    assert len(found) == len(by_cell) == 9
    states = {cell: trial.state.name for cell, trial in by_cell.items()}
    assert {cell for cell, state in states.items() if state == "COMPLETE"} == {
        (32, 0.01),
        (32, 1e-4),
    }
    assert set(states.values()) == {"COMPLETE", "FAIL"}

    reasons = {cell: trial.user_attrs.get("reason", "") for cell, trial in by_cell.items()}
    assert re.search("loss is (nan|inf) at step", reasons[32, 1e30])
    assert "allocate" in reasons[10**13, 0.01]
    assert reasons[33, 0.01] == "OutOfMemoryError: CUDA out of memory."
    folders = {cell: Path(f"runs/search/found/trials/{t.number:04}") for cell, t in by_cell.items()}
    assert "Traceback" in (folders[33, 0.01] / "error.txt").read_text()
    assert not (folders[32, 1e30] / "error.txt").exists()  # no programmer needs to look

    # A line for each, as it ended, with its reason.
    lines = [line for line in out.splitlines() if re.match(r" +\d  (done|failed)  ", line)]
    assert [int(line.split()[0]) for line in lines] == [*range(9), *range(4)]  # and the runs
    assert sum("loss is" in line for line in lines) == 1
    assert [row["reason"] for row in report_rows("found")] == [
        t.user_attrs.get("reason", "") for t in found
    ]

    # best.yaml is the trial; winner.yaml is the base with the trial's values.
    best = by_cell[32, 0.01]
    assert best.value is not None
    assert best.value > by_cell[32, 1e-4].value  # type: ignore[operator]
    folder = Path("runs/search/found")
    full = ["--trainer.enable_progress_bar=false", "--test_best=false", "--experiment=again"]
    again = train.main(["fit", f"--config={folder / 'best.yaml'}", *full])
    assert again.run_summary.best["val/accuracy"] == best.value
    winner = yaml.safe_load((folder / "winner.yaml").read_text())
    assert (winner["trainer"]["max_epochs"], winner["trainer"]["limit_val_batches"]) == (3, None)
    assert winner["data"]["init_args"]["train_fraction"] == 0.02
    assert winner["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01

    # The confirmation: no validation, all of the base's budget, the test set once.
    runs = {path.parent: json.loads(path.read_text()) for path in folder.glob("*/*/*/summary.json")}
    names = {str(run.relative_to(folder / "confirmation")) for run in runs}
    assert names == {f"{v}/seed_{s}" for v in ("base", "winner") for s in (0, 1)}
    for run, summary in runs.items():
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["data"]["init_args"]["val_size"] == 0
        assert config["seed_everything"] == int(run.name[-1])
        assert (summary["epochs"], summary["best"]) == (3, {})
        assert 0 < summary["test"]["test/accuracy"] < 1
    assert "95% interval" in out
    assert "n = 2" in out

    # Nothing is done twice.
    before = {run: (run / "summary.json").stat().st_mtime_ns for run in runs}
    search.main([study])
    assert {run: (run / "summary.json").stat().st_mtime_ns for run in runs} == before
    assert trials("found") == found
    capfd.readouterr()
    search.main(["show", "--study", "found"])
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "95% interval" in shown.out
    search.main(["show", "--study", str(folder.resolve())])
    assert capfd.readouterr().out.splitlines()[:5] == shown.out.splitlines()[:5]

    # More seeds are more runs, and the earlier ones stay.
    search.main([study, "--confirmation_seeds=[0,1,2]"])
    assert len(list(folder.glob("confirmation/*/seed_2"))) == 2
    assert {run: (run / "summary.json").stat().st_mtime_ns for run in runs} == before


def test_every_trial_is_a_run_with_its_hyper_parameters(place: Path) -> None:
    search.main([write("board", space=RATES, n_trials=2)])
    for trial in trials("board"):
        events = EventAccumulator(f"runs/search/board/trials/{trial.number:04}")
        events.Reload()
        assert len(events.Scalars("val/accuracy")) == 2
        assert max(event.value for event in events.Scalars("val/accuracy")) == pytest.approx(
            trial.value
        )
        plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data
        assert plugin.plugin_name == "hparams"
        assert b"lr" in plugin.content
        assert events.Scalars("reached/val/accuracy")[-1].value == pytest.approx(trial.value)


def test_several_seeds_are_averaged(place: Path) -> None:
    search.main([write("seeds", space=RATES, n_trials=1), "--seeds=[0,3]"])
    (trial,) = trials("seeds")
    scores = trial.user_attrs["scores"]
    assert len(set(scores)) == 2
    assert trial.value == pytest.approx(sum(scores) / 2)
    assert trial.user_attrs["epochs"] == 4


def test_a_losing_trial_is_pruned(place: Path) -> None:
    pruner = {"class_path": "optuna.pruners.ThresholdPruner", "init_args": {"lower": 0.3}}
    space = {LR: {"choices": [0.01, 1e-9]}}
    search.main([write("pruned", **{**GRID, "space": space}, pruner=pruner)])
    good, bad = trials("pruned")
    assert (good.state, bad.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert (good.user_attrs["epochs"], bad.user_attrs["epochs"]) == (2, 1)


def test_a_failing_confirmation_is_reported(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write("unlucky", space=RATES, n_trials=1, confirmation_seeds=[0])

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("lightning_modules.ImageClassifier.on_test_start", fail, raising=False)
        search.main([study])
    out, error = capfd.readouterr()
    assert error == ""
    assert out.count("(RuntimeError: the disk is full)") == 2
    assert "base failed (n = 0), winner failed (n = 0)" in " ".join(out.split())
    assert (
        "disk is full" in Path("runs/search/unlucky/confirmation/base/seed_0/error.txt").read_text()
    )
    assert Path("runs/search/unlucky/winner.yaml").is_file()


def test_a_search_whose_trials_all_failed_says_so_first(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = {WIDTH: {"choices": [10**13, 10**13 + 1]}, LR: {"choices": [0.1]}}
    study = write("hopeless", space=space, sampler=GRID["sampler"])
    assert ends(study) == 1
    out, error = capfd.readouterr()
    assert re.fullmatch(
        r"search.py: all 2 trials failed; the commonest reason: .*allocate.*\n", error
    )
    assert "All 2 trials failed" in out
    assert "2 trials: 2 failed." in out
    assert "All 2 trials failed" in Path("runs/search/hopeless/report.html").read_text()
    search.main(["show", "--study=hopeless"])  # which has done what was asked
    assert capfd.readouterr().err == error
    space = {WIDTH: {"choices": [10**13, 4]}, LR: {"choices": [0.1]}}
    search.main([write("hopeful", space=space, sampler=GRID["sampler"])])
    out, error = capfd.readouterr()
    assert error == ""
    assert "2 trials: 1 completed, 1 failed." in out


def test_a_schedule_of_the_confirmation_follows_the_training_loss(place: Path) -> None:
    """The base's own looks at the validation accuracy, of which more is better."""
    plateau = {
        "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "init_args": {"mode": "max"},
    }
    model = {"init_args": {"lr_scheduler": plateau, "lr_scheduler_monitor": "val/accuracy"}}
    Path("plateau.yaml").write_text(yaml.safe_dump({"model": model}))
    base = ["base.yaml", "plateau.yaml"]
    space = {LR: {"choices": [0.01]}}
    search.main([write("follows", base=base, space=space, n_trials=1, confirmation_seeds=[0])])
    for run in Path("runs/search/follows/confirmation").glob("*/seed_0"):
        kept = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
        assert kept["lr_scheduler_monitor"] == "train/loss"
        assert kept["lr_scheduler"]["init_args"]["mode"] == "min"
    best = yaml.safe_load(Path("runs/search/follows/best.yaml").read_text())["model"]["init_args"]
    assert best["lr_scheduler"]["init_args"]["mode"] == "max"


# The same again.


@pytest.mark.parametrize(
    "sampler", [pytest.param("RandomSampler", marks=pytest.mark.slow), "TPESampler"]
)
def test_an_interrupted_search_finds_what_an_uninterrupted_one_does(
    place: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"seed": 5}
    if sampler == "TPESampler":
        arguments["n_startup_trials"] = 2
    spec = {"class_path": f"optuna.samplers.{sampler}", "init_args": arguments}
    space = {**RATES, WIDTH: {"low": 4, "high": 16}}
    settings: dict[str, Any] = {"space": space, "sampler": spec, "objective": {"epochs": 1}}
    search.main([write("whole", **settings, n_trials=5)])
    parts = write("parts", **settings, n_trials=5)
    interrupt(monkeypatch, at=2, number=signal.SIGTERM)
    assert ends(parts, "--n_trials=4") == 143
    states = [trial.state.name for trial in trials("parts")]
    assert states == ["COMPLETE", "COMPLETE", "WAITING", "WAITING"]
    search.main([parts])
    assert tried("parts") == tried("whole")
    assert len({trial.params[LR] for trial in trials("whole")}) == 5


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, number: int) -> None:
    """Send this process a signal in a trial's first epoch, once."""
    inner = EpochReport.on_validation_end
    sent: list[int] = []

    def outer(self: Any, trainer: Any, module: Any) -> None:
        if self.trial is not None and self.trial.number == at and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        inner(self, trainer, module)

    monkeypatch.setattr(EpochReport, "on_validation_end", outer)


def test_killed_while_the_study_is_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write("cells", **GRID)

    definition = define(search_parser().parse_args([study]))
    monkeypatch.setattr(
        studies.search.search_study, "define", lambda _: definition
    )  # which takes a while

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    added: list[int] = []
    inner = optuna.Study.add_trial

    def killed_later(self: optuna.Study, trial: FrozenTrial) -> None:
        added.append(1)
        if len(added) > 4:
            raise Killed
        inner(self, trial)

    for owner, name, death, left in (
        (studies.queue.storage, "PatientStorage", killed, None),
        (optuna.Study, "set_user_attr", killed, 0),
        (optuna.Study, "add_trial", killed_later, 4),
        (studies.search.search_study.Search, "save", killed, 9),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, death)
            with pytest.raises(Killed):
                search.main([study])
        assert left is None or len(trials("cells")) == left
    with monkeypatch.context() as patch:
        patch.setattr(TrialRunner, "train", lambda *_, **__: done())
        search.main([study])
    assert_whole_grid("cells")


def done(**attrs: Any) -> Outcome:
    return Outcome(TrialState.COMPLETE, 0.5, attrs)


def assert_whole_grid(name: str) -> None:
    found = trials(name)
    assert [trial.state.name for trial in found] == ["COMPLETE"] * 9
    assert len({(trial.params[WIDTH], trial.params[LR]) for trial in found}) == 9


# Real processes.


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "search.py"), *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def states(name: str) -> list[str]:
    """The trials' states while others write them; nothing where there is no study yet."""
    try:
        with sqlite3.connect(f"file:runs/search/{name}/study.db?mode=ro", uri=True) as database:
            return [state for (state,) in database.execute("select state from trials order by 1")]
    except sqlite3.OperationalError:
        return []


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_grid_goes_on(place: Path) -> None:
    study = write("grid", **GRID)
    process = start(study)
    wait_for(lambda: states("grid").count("COMPLETE") >= 2, process)
    process.kill()
    process.communicate()
    finished = [trial for trial in trials("grid") if trial.state.is_finished()]
    assert 2 <= len(finished) < 9
    search.main([study])
    assert_whole_grid("grid")
    assert [trials("grid")[trial.number] for trial in finished] == finished  # none ran again


@pytest.mark.slow
def test_a_grid_survives_kill_and_ctrl_c(place: Path) -> None:
    """Killed while it makes its study, in its first trials and later, then stopped as one does."""
    study = write("grid", **GRID)
    moments = (
        lambda: len(states("grid")) >= 4,
        lambda: states("grid").count("COMPLETE") >= 2,
        lambda: states("grid").count("COMPLETE") >= 4 and "RUNNING" in states("grid"),
    )
    finished: dict[int, FrozenTrial] = {}
    for moment in moments:
        process = start(study)
        wait_for(moment, process)
        process.kill()
        process.communicate()
        ended = {trial.number: trial for trial in trials("grid") if trial.state.is_finished()}
        assert {number: ended[number] for number in finished} == finished  # none ran again
        finished = ended
    assert 4 <= len(finished) < 9

    process = start(study)
    before = len(finished)
    wait_for(lambda: states("grid").count("COMPLETE") > before, process)
    wait_for(lambda: "RUNNING" in states("grid"), process)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "search.py: interrupted by SIGINT; the same command goes on from here\n"
    assert f"going on after {before} trials" in out
    assert set(states("grid")) == {"COMPLETE", "WAITING"}
    assert Path("runs/search/grid/report.html").is_file()
    assert {row["state"] for row in report_rows("grid")} == {"COMPLETE", "WAITING"}

    search.main([study])
    assert_whole_grid("grid")
    ended = {trial.number: trial for trial in trials("grid")}
    assert {number: ended[number] for number in finished} == finished
    # A process of its own reads numbers as train.py does: one batch, not 1.0, which is all.
    trainer = yaml.safe_load(Path("runs/search/grid/best.yaml").read_text())["trainer"]
    assert repr(trainer["limit_val_batches"]) == "1"


# Several processes per trial.


@pytest.mark.slow
def test_a_trial_in_two_processes(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    two = {"devices": 2, "strategy": "ddp", "accelerator": "cpu", "limit_train_batches": 5}
    Path("two.yaml").write_text(yaml.safe_dump({"trainer": two}))
    base = ["base.yaml", "two.yaml"]
    search.main(
        [write("pair", base=base, sampler=GRID["sampler"], space={LR: {"choices": [0.01]}})]
    )
    assert capfd.readouterr().err == ""
    (trial,) = trials("pair")
    assert trial.value == max(trial.intermediate_values.values())
    assert set(trial.intermediate_values) == {1, 2}


@pytest.mark.slow
def test_trials_in_two_processes(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One is good, one is pruned, one diverges; and the winner is confirmed in two processes."""
    two = {"devices": 2, "strategy": "ddp", "accelerator": "cpu", "limit_train_batches": 5}
    Path("two.yaml").write_text(yaml.safe_dump({"trainer": two}))
    study = write(
        "two_processes",
        base=["base.yaml", "two.yaml"],
        proxy=["proxy.yaml"],
        sampler=GRID["sampler"],
        space={LR: {"choices": [0.01, 1e-9, 1e30]}},
        pruner={"class_path": "optuna.pruners.ThresholdPruner", "init_args": {"lower": 0.3}},
        confirmation_seeds=[0],
    )
    search.main([study])
    out, error = capfd.readouterr()
    assert error == ""
    found = trials("two_processes")
    assert [t.state.name for t in found] == ["COMPLETE", "PRUNED", "FAIL"], out
    good, bad, diverged = found
    assert good.value == max(good.intermediate_values.values())
    assert set(good.intermediate_values) == {1, 2}
    assert set(bad.intermediate_values) == {1}
    assert re.search("loss is (nan|inf)", diverged.user_attrs["reason"])
    for variant in ("base", "winner"):
        run = Path("runs/search/two_processes/confirmation", variant, "seed_0")
        summary = json.loads((run / "summary.json").read_text())
        assert summary["processes"] == 2
        assert 0 < summary["test"]["test/accuracy"] < 1
    assert "n = 1" in out or "from 1 seed" in out


# What a user gets wrong.


def test_another_space_is_refused_and_nothing_changes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write("fixed", space=RATES, n_trials=1)
    search.main([study])
    capsys.readouterr()
    folder = Path("runs/search/fixed")
    Path("bigger.yaml").write_text("data: {init_args: {batch_size: 128}}")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    for other, names in (
        ({"space": {LR: {"low": 0.01, "high": 0.1, "log": True}}}, "space"),
        ({"space": RATES, "objective": {"epochs": 1}}, "epochs (2 then, 1 now)"),
        ({"space": RATES, "base": ["base.yaml", "bigger.yaml"]}, "batch_size (64 then, 128 now)"),
    ):
        assert ends(write("fixed", n_trials=2, **other)) == 2
        error = one_line(capsys)
        assert names in error
        assert "another --name" in error
        assert content() == before


def test_what_is_missing_is_said_in_a_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write("endless", space=RATES)
    for args, says in (
        ((study,), "n_trials and timeout are not set"),
        ((study, "--n_trials=0"), "n_trials is 0"),
        ((study, "--n_trials=1", "--seeds=[-1]"), "seeds is [-1]; expected whole numbers from 0"),
        ((study, "--n_trials=1", "--confirmation_seeds=[0,4294967296]"), "confirmation_seeds is"),
        ((study, "--n_trials=1", "--confirmation_seeds=[1,1]"), "expected different ones"),
        ((study, "--n_trials=1", "--storage=pg://me:secret@host/x"), "--storage pg://me:***@host"),
        (
            (study, "--n_trials=1", "--storage=postgresql+psycopg://me:secret@127.0.0.1:1/x"),
            "refused",
        ),
        ((study, "--n_trials=1", "--base=[nowhere.yaml]"), "nowhere.yaml"),
        (("show", "--study=nothing"), "there is no study in runs/search"),
        (("show",), "study"),
    ):
        assert ends(*args) == 2
        error = one_line(capsys)
        assert says in error
        assert "secret" not in error
        assert not Path("runs").exists()
    for name in ("one", "two"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrialRunner, "train", lambda *_, **__: done())
            search.main([write(name, space=RATES, n_trials=1)])
    capsys.readouterr()
    assert ends("show", "--study=nothing") == 2
    assert "there are runs/search/one, runs/search/two" in one_line(capsys)
    database = f"--storage=sqlite:///{place}/runs/search/one/study.db"
    assert ends("show", "--study=two", database) == 2
    assert "there is no study two in sqlite:///" in one_line(capsys)


def test_a_database_that_is_gone_is_said_in_a_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write("gone", space=RATES, n_trials=2)

    def vanish(*_: object, **__: object) -> None:
        with sqlite3.connect("runs/search/gone/study.db") as database:
            database.execute("alter table trial_intermediate_values rename to elsewhere")

    monkeypatch.setattr(EpochReport, "on_train_start", vanish, raising=False)
    assert ends(study) == 2
    assert "trial_intermediate_values" in one_line(capsys)


@pytest.mark.slow
def test_a_damaged_file_is_answered_in_a_line_and_nothing_changes(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study of two trials, whose file is overwritten, cut off, emptied or gone."""
    study = write("hurt", space=RATES, n_trials=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialRunner, "train", lambda *_, **__: done())
        search.main([study])
    folder = Path("runs/search/hurt")
    file = folder / "study.db"
    whole = file.read_bytes()

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    for damaged in (b"rubbish" * 1000, whole[: len(whole) // 2], whole[:8192] + bytes(len(whole))):
        file.write_bytes(damaged)
        before = content()
        for command in ([study], [study, "--n_trials=3"], ["show", "--study=hurt"]):
            capsys.readouterr()
            assert ends(*command) == 2
            error = one_line(capsys)
            assert error.startswith(f"search.py: error: {file}: ")
            assert f"mv {file} {file}.damaged && sqlite3 {file}.damaged .dump | sed" in error
            assert "postgresql" not in error
        assert content() == before
    for lose in (lambda: file.write_bytes(b""), file.unlink):
        lose()
        report = (folder / "report.html").read_bytes()
        capsys.readouterr()
        assert ends(study) == 2
        assert f"{folder} is of a study that is not in sqlite:///" in one_line(capsys)
        assert ends("show", "--study=hurt") == 2
        assert "hurt" in one_line(capsys)
        assert (folder / "report.html").read_bytes() == report
    file.write_bytes(whole)
    search.main(["show", "--study=hurt"])


def test_a_comparison_is_not_taken_for_a_search(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither shown nor gone on with; and the other way round."""
    storage = f"--storage=sqlite:///{place}/shared.db"
    variants = {"dropout": "model.init_args.dropout=0.5"}
    Path("versus.yaml").write_text(
        yaml.safe_dump({"base": "base.yaml", "seeds": [0], "variants": variants})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialRunner, "train", lambda *_, **__: done())
        search.main([write("found", space=RATES, n_trials=1), storage])
        measured = {"test/accuracy": 0.5}
        patch.setattr(ComparisonRunner, "train", lambda *_, **__: done(measured=measured))
        compare.main(["--config=versus.yaml", storage])
    capsys.readouterr()

    assert ends("show", "--study=runs/compare/versus") == 2
    error = one_line(capsys)
    assert "study versus" in error
    assert "is one of compare.py's, not of search.py's" in error
    assert ends("--config=found.yaml", storage, "--name=versus") == 2
    assert "is one of compare.py's" in one_line(capsys)
    assert not Path("runs/search/versus").exists()
    for args in (["show", "--study=runs/search/found"], ["--config=versus.yaml", "--name=found"]):
        with pytest.raises(SystemExit) as ended:
            compare.main([*args, storage])
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert error.count("\n") == 1
        assert "study found" in error
        assert "is one of search.py's, not of compare.py's" in error
    assert len(trials("found", f"sqlite:///{place}/shared.db")) == 1


def test_time_is_a_limit_too(place: Path) -> None:
    study = write("timed", space=RATES, sampler="optuna.samplers.RandomSampler")
    began = time.monotonic()
    search.main([study, "--timeout=2", "--objective.epochs=1"])
    assert time.monotonic() - began < 15
    first = len(trials("timed"))
    assert 1 <= first < 100
    search.main([study, "--timeout=1", "--objective.epochs=1"])  # this command's time, not all
    assert len(trials("timed")) > first
    assert {trial.state for trial in trials("timed")} == {TrialState.COMPLETE}


def test_a_study_without_a_file_has_a_name(place: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialRunner, "train", lambda *_, **__: done())
        search.main(
            [
                "--base=base.yaml",
                f"--space.{LR}={{low: 0.1, high: 0.2}}",
                "--n_trials=1",
                "--confirmation_seeds=[]",
            ]
        )
        Path("docs").mkdir()  # a folder here of the study's name is another thing
        search.main([write("docs", space=RATES, n_trials=1)])
    assert len(trials("study")) == len(trials("docs")) == 1


@pytest.mark.parametrize("command", [["--help"], ["show", "--help"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(*command) in (0, None)
    out, error = capsys.readouterr()
    assert error == ""
    assert ("--study" if "show" in command else "--confirmation_seeds") in out
