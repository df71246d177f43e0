"""The comparison's command line on real data: runs, resuming, reports, messages."""

import csv
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

import compare
from studies.compare.runs_file import unpacked

BASE = """
trainer: {accelerator: cpu, max_epochs: 3, limit_test_batches: 1, num_sanity_val_steps: 0}
model:
  class_path: MLP
  init_args:
    hidden_size: 32
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.005}}
data:
  class_path: FashionMNISTDataModule
  init_args: {root: ROOT, batch_size: 64}
"""
SETTINGS: dict[str, Any] = {
    "base": "base.yaml",
    "budget": [
        "trainer.max_epochs=2",
        "trainer.limit_val_batches=1",
        "data.init_args.train_fraction=0.01",
    ],
    "seeds": [0, 1],
    "variants": {
        "slow": "model.init_args.optimizer.init_args.lr=0.00001",
        "dropout": ["dropout.yaml", "model.init_args.hidden_size=16"],
        "broken": "model.init_args.hidden_size=10000000000000",
    },
}


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base and an overlay, in which the commands run."""
    (tmp_path / "base.yaml").write_text(BASE.replace("ROOT", str(data_root)))
    (tmp_path / "dropout.yaml").write_text("model: {init_args: {dropout: 0.5}}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, **settings: Any) -> str:
    """The comparison's YAML; the option that names it."""
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}, sort_keys=False))
    return f"--config={name}.yaml"


def runs(name: str) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///runs/compare/{name}/study.db"
    return optuna.load_study(study_name=name, storage=storage).trials


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a mistake is answered with."""
    with pytest.raises(SystemExit) as ended:
        compare.main(list(args))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("compare.py: error: ")
    assert error.count("\n") == 1
    return error


def test_a_comparison_from_runs_to_report(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compare.main([write("three")])
    out, error = capfd.readouterr()
    assert error == ""
    found = {
        (trial.user_attrs["values"]["variant"], trial.user_attrs["values"]["seed"]): trial
        for trial in runs("three")
    }
    assert len(found) == len(runs("three")) == 8
    # Seeds outermost: a comparison that is cut short has every variant equally often.
    assert [seed for _, seed in found] == [0] * 4 + [1] * 4
    broken = found["broken", 0]
    assert broken.state.name == "FAIL"
    assert "memory" in broken.user_attrs["reason"]
    base = found["base", 0].user_attrs
    assert base["epochs"] == 2
    measured = base["measured"]
    assert found["base", 0].value == measured["test/accuracy"] > found["slow", 0].value
    assert 0.2 < measured["train_accuracy"] <= 1
    assert measured["seconds_per_epoch"] > 0
    assert measured["parameters"] == 784 * 32 + 32 + 32 * 10 + 10
    assert found["dropout", 0].user_attrs["measured"]["parameters"] == 784 * 16 + 16 + 16 * 10 + 10
    assert measured["peak_memory"] >= 0
    assert {name: len(values) for name, values in base["curves"].items()} == {
        name: 2 for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    }
    folder = Path("runs/compare/three")
    assert not list(folder.glob("runs/**/*.ckpt"))
    assert (folder / "runs/base/seed_0/config.yaml").is_file()
    rows = {row["variant"]: row for row in read(f"{folder}/results.csv")}
    assert list(rows) == ["base", "slow", "dropout", "broken"]
    assert len(read(f"{folder}/runs.csv")) == 8
    for text in ((folder / "report.html").read_text(), (folder / "results.md").read_text(), out):
        assert "dropout" in text
        assert "slow" in text

    compare.main(["show", "--study", "three"])
    shown = capfd.readouterr().out
    assert "slow" in shown
    assert "seed 0   " not in shown  # nothing is trained again

    # Another seed and another variant go on with what is there.
    added = {**SETTINGS["variants"], "wide": "model.init_args.hidden_size=64"}
    compare.main([write("three", variants=added, seeds=[0, 1, 2])])
    again = runs("three")
    assert len(again) == 15
    assert [t.datetime_complete for t in again[:8]] == [
        trial.datetime_complete for trial in found.values()
    ]
    capfd.readouterr()

    # Not with other runs, though.
    with pytest.raises(SystemExit):
        compare.main([write("three", budget=[*SETTINGS["budget"], "trainer.max_epochs=1"])])
    assert "three holds runs of base with another configuration" in capfd.readouterr().err
    assert len(runs("three")) == 15


def test_groups_have_bases_of_their_own_and_chains_add_up(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    groups = {
        "small": ["model.init_args.hidden_size=8"],
        "own": {
            "base": ["base.yaml", "model.init_args.hidden_size=24"],
            "variants": {"instead": {"base": "base.yaml"}},
        },
    }
    variants = {"first": "model.init_args.dropout=0.5", "then": "model.init_args.l2=0.001"}
    compare.main([write("grouped", groups=groups, variants=variants, chain=True, seeds=[3])])
    configs = optuna.load_study(
        study_name="grouped", storage="sqlite:///runs/compare/grouped/study.db"
    ).user_attrs["definition"]["configs"]
    model = {key: yaml.safe_load(text)["model"]["init_args"] for key, text in configs.items()}
    chosen = {key: (m["hidden_size"], m["dropout"], m["l2"]) for key, m in model.items()}
    assert chosen == {
        "small/base": (8, 0.0, 0.0),
        "small/first": (8, 0.5, 0.0),
        "small/then": (8, 0.5, 0.001),
        "own/base": (24, 0.0, 0.0),
        "own/first": (24, 0.5, 0.0),
        "own/then": (24, 0.5, 0.001),
        "own/instead": (32, 0.0, 0.0),
    }
    assert all(trial.state.name == "COMPLETE" for trial in runs("grouped"))
    assert "small" in capfd.readouterr().out


def test_a_comparison_whose_runs_all_failed_says_so_first(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    variants = {"wider": "model.init_args.hidden_size=20000000000000"}
    hopeless = ["base.yaml", "model.init_args.hidden_size=10000000000000"]
    with pytest.raises(SystemExit) as ended:
        compare.main([write("hopeless", base=hopeless, variants=variants)])
    out, error = capfd.readouterr()
    assert ended.value.code == 1
    assert error.startswith("compare.py: all 4 runs failed; the commonest reason: ")
    assert "allocate" in error
    assert error.count("\n") == 1
    assert "All 4 runs failed" in out
    for name in ("report.html", "results.md"):
        assert "All 4 runs failed" in Path("runs/compare/hopeless", name).read_text()


@pytest.mark.parametrize(
    "budget",
    [
        ["data.init_args.val_size=0", "trainer.max_epochs=1"],
        ["trainer.max_steps=2"],
        ["trainer.limit_val_batches=0", "trainer.max_epochs=1"],
    ],
    ids=["val_size", "max_steps", "limit_val_batches"],
)
def test_without_validation_the_last_weights_are_tested(
    place: Path, capfd: pytest.CaptureFixture[str], budget: list[str]
) -> None:
    budget = ["data.init_args.train_fraction=0.01", *budget]
    variants = {"dropout": "dropout.yaml"}
    compare.main([write("blind", budget=budget, variants=variants, seeds=[0])])
    assert capfd.readouterr().err == ""
    found = runs("blind")
    assert [(t.state.name, t.user_attrs.get("reason")) for t in found] == [("COMPLETE", None)] * 2
    for trial in found:
        measured = trial.user_attrs["measured"]
        assert trial.value == measured["test/accuracy"]
        assert 0 < measured["train_accuracy"] < 1
        assert not {"best_epoch", "val/accuracy", "val/loss"} & measured.keys()
    rows = read("runs/compare/blind/results.csv")
    assert [row["n"] for row in rows] == ["1", "1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base": []}, "base is empty"),
        ({"base": "nowhere.yaml"}, "base: nowhere.yaml is no file; expected one, or key=value"),
        ({"variants": {}}, "there are no variants"),
        ({"variants": {"base": "dropout.yaml"}}, "variants: base: choose another name"),
        ({"variants": {"Base": "dropout.yaml"}}, "variants: Base: choose another name"),
        ({"variants": {"a/b": "dropout.yaml"}}, "variants: 'a/b' makes no name of a folder"),
        ({"variants": {"": "dropout.yaml"}}, "variants: '' makes no name of a folder"),
        ({"variants": {"a" * 101: "dropout.yaml"}}, "at most 100 characters"),
        ({"variants": {"a": "dropout.yaml", "A": []}}, "variants: a and A differ in case only"),
        ({"groups": {"..": []}}, "groups: '..' makes no name of a folder"),
        ({"groups": {"a\\b": []}}, r"groups: 'a\\b' makes no name of a folder"),
        ({"groups": {"g": [], "G": []}}, "groups: g and G differ in case only"),
        ({"groups": {"g": {"variants": {"base": []}}}}, "variants: base: choose another name"),
        ({"groups": {"g": {"variants": {"a/b": []}}}}, "variants: 'a/b' makes no name"),
        ({"groups": {"g": {"variants": {".a": []}}}}, "variants: '.a' makes no name"),
        ({"groups": {"g": {"variants": {"a\0b": []}}}}, r"variants: 'a\x00b' makes no name"),
        ({"groups": {"g": {"variants": {"SLOW": []}}}}, "slow and SLOW differ in case only"),
        (
            {"groups": {"g": {"variants": {"a": []}}, "h": {"variants": {"A": []}}}},
            "a and A differ in case only",
        ),
        ({"groups": {"g": {"variants": ["a"]}}}, "groups: g: variants is ['a']; expected names"),
        ({"budget": "trainer.limit_test_batches=0"}, "limit_test_batches is 0, but test images"),
        ({"variants": {"a": "model.init_args.dropuot=1"}}, "did you mean dropout?"),
        ({"variants": {"a": 3}}, "variants: a is 3; expected files and key=value"),
        ({"each": "nowhere/*.yaml"}, "each is nowhere/*.yaml; no file matches"),
        ({"seeds": [1, 1]}, "seeds is [1, 1]; expected different ones"),
        ({"seeds": []}, "seeds is []; expected at least one"),
        ({"seeds": [0, -1]}, "seeds is [0, -1]; expected whole numbers from 0 to 4294967295"),
        ({"base_seeds": [0]}, "base_seeds has 0, which seeds has, too"),
        ({"margin": 0}, "margin is 0.0; expected percentage points above 0"),
        ({"families": {"f": ["nothing"]}}, "families: f has nothing, which is no variant"),
        ({"families": {"f": ["slow"], "g": ["slow"]}}, "slow is in f and in g; choose one"),
        ({"families": "folders"}, "families is folders, but each is not given"),
        ({"start_from": "nowhere.csv"}, "nowhere.csv: not the runs.csv of a comparison"),
        ({"workers": 0}, "workers is 0; expected at least 1"),
        ({"groups": {"g": {"bases": []}}}, "groups: g has bases; expected base, variants, options"),
        ({"leave_out": ["b"], "each": "dropout.yaml"}, "leave_out names b"),
    ],
)
def test_a_mistake_is_answered_in_a_line(
    place: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], message: str
) -> None:
    assert message in fails(capsys, write("mistaken", **changed))
    assert not Path("runs").exists()


def test_runs_of_one_comparison_have_one_precision_and_numbers_are_names(place: Path) -> None:
    variants = {1: "model.init_args.dropout=0.1"}
    compare.main([write("pinned", seeds=[0], variants=variants)])
    configs = list(Path("runs/compare/pinned/runs").glob("**/config.yaml"))
    assert {path.parents[1].name for path in configs} == {"base", "1"}
    chosen = [yaml.safe_load(path.read_text())["trainer"]["precision"] for path in configs]
    assert len(set(chosen)) == 1
    assert chosen[0] in ("32-true", "bf16-mixed")


def test_a_seed_draws_the_split_and_a_finished_run_comes_from_a_file(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    variants = {"dropout": "dropout.yaml"}
    budget = ["trainer.max_epochs=1", "data.init_args.train_fraction=0.01"]
    whole = ["trainer.limit_test_batches=null", *budget]
    settings: dict[str, Any] = {"variants": variants, "budget": whole}
    compare.main([write("first", **settings, seeds=[0], base_seeds=[7, 8])])
    folder = Path("runs/compare/first")
    splits = {
        path.parent.name: yaml.safe_load(path.read_text())["data"]["init_args"]["split_seed"]
        for path in folder.glob("runs/base/*/config.yaml")
    }
    assert splits == {"seed_0": 0, "seed_7": 7, "seed_8": 8}
    there = {(run["variant"], run["seed"]): run for run in read(f"{folder}/runs.csv")}
    assert list(there) == [("base", "0"), ("dropout", "0"), ("base", "7"), ("base", "8")]
    base = there["base", "0"]
    assert base["machine"]
    assert base["commit"]
    right = unpacked(base["right"])
    assert right.mean() == pytest.approx(float(base["test/accuracy"]), abs=1e-6)

    # Elsewhere: what is in the file is not trained again.
    compare.main([write("second", **settings, seeds=[0, 1], start_from=f"{folder}/runs.csv")])
    again = {(run["variant"], run["seed"]): run for run in read("runs/compare/second/runs.csv")}
    assert list(again) == [("base", "0"), ("dropout", "0"), ("base", "1"), ("dropout", "1")]
    assert again["base", "0"] == base
    assert not Path("runs/compare/second/runs/base/seed_0").exists()
    capfd.readouterr()
    settings["variants"] = {"dropout": ["dropout.yaml", "model.init_args.hidden_size=16"]}
    with pytest.raises(SystemExit):
        compare.main([write("third", **settings, start_from=f"{folder}/runs.csv")])
    message = capfd.readouterr().err
    assert "runs.csv has runs of dropout with another configuration" in message
    assert not Path("runs/compare/third/study.db").exists()

    # The files alone are all there is to it.
    shutil.copytree(
        folder, "kept", ignore=shutil.ignore_patterns("study.db", "runs", "report.html")
    )
    results = Path("kept/results.csv").read_text()
    compare.main(["show", "--study", "kept"])
    assert "dropout" in capfd.readouterr().out
    assert Path("kept/results.csv").read_text() == results
    assert Path("kept/report.html").is_file()
    assert not Path("kept/study.db").exists()
    Path("kept/comparison.yaml").unlink()
    with pytest.raises(SystemExit):
        compare.main(["show", "--study", "kept"])
    assert "comparison.yaml: not what a comparison wrote" in capfd.readouterr().err
