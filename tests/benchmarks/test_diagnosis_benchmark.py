"""The benchmark of the diagnosis, with made-up curves and with a few short runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import diagnosis
from benchmarks.diagnosis import COLLECTION, KINDS, Recipe, ShuffledMNIST
from diagnosis.curves import CURVES
from diagnosis.diagnosis import diagnose
from diagnosis.measures import Measures, Thresholds

COMMITTED = Path(__file__).parents[2] / "results" / "diagnosis"


def run(kind: str, val: list[float | None], train: list[float | None], seed: int = 0) -> Any:
    loss = [None if v is None else 1 - v for v in val]
    values = ([None if v is None else 1 - v for v in train], train, loss, val)
    head = {"name": kind, "kind": kind, "dataset": "FashionMNIST", "seed": seed, "reference": 0.7}
    return {**head, "curves": dict(zip(CURVES, values, strict=True))}


def low(accuracy: float, kind: str) -> Any:
    return run(kind, [accuracy] * 6, [accuracy] * 6)


def test_thresholds_lie_in_the_middle_of_what_separates() -> None:
    runs = [low(0.6, "underfitting"), low(0.73, "underfitting"), low(0.88, "good fit")]
    found = diagnosis.fit([*runs, low(0.94, "good fit")])
    # 27% and 12% wrong, where the class means get 30% wrong: between 0.9 and 0.4.
    assert found.shortfall == pytest.approx(0.65)
    assert diagnosis.correct(runs, found) == 3


def test_a_broken_run_is_not_converging() -> None:
    broken = run("not converging", [None], [None])
    assert diagnosis.said(broken, Thresholds()) == "not converging"


def test_confusion_counts() -> None:
    runs = [low(0.5, "underfitting"), low(0.5, "good fit"), low(0.95, "good fit")]
    table = diagnosis.confusion(runs, Thresholds()).splitlines()
    row = next(line for line in table if line.startswith("| good fit"))
    cells = dict(zip(KINDS, row.split("|")[2:-1], strict=True))
    assert cells["underfitting"].strip() == cells["good fit"].strip() == "1"
    assert cells["oscillating"].strip() == "·"


def test_held_out_runs_do_not_set_the_thresholds() -> None:
    parts = diagnosis.groups([run("good fit", [0.9], [0.9], seed) for seed in range(4)])
    assert [r["seed"] for r in parts["Thresholds set on these"]] == [0, 1]
    assert [r["seed"] for r in parts["Held out"]] == [2, 3]
    assert parts["Held out, MNIST"] == []


def test_labels_are_shuffled(data_root: Path) -> None:
    whole, half, none = (ShuffledMNIST(share, root=str(data_root)) for share in (1.0, 0.5, 0.0))
    true = none.load(train=True)[1]
    for data, agreement in ((whole, 0.1), (half, 0.55)):
        labels = data.load(train=True)[1]
        assert (labels == true).float().mean() == pytest.approx(agreement, abs=0.01)
        assert torch.equal(labels.bincount(), true.bincount())
        assert torch.equal(labels, data.load(train=True)[1])


def test_trains_what_is_missing_and_refits(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    mlp = "--model=MLP --model.preprocessing=MinMaxScaling"
    recipes = {
        "fine": Recipe("good fit", 300, 2, mlp),
        "shuffled": Recipe("not converging", 300, 1, mlp, shuffled=1.0),
        "broken": Recipe("not converging", 300, 1, f"{mlp} {diagnosis._sgd(1e10, 0.9)}"),
    }
    monkeypatch.setattr(diagnosis, "COLLECTION", recipes)
    options = [f"--results={tmp_path}", f"--root={data_root}", "--seeds=1"]
    diagnosis.main(options)
    assert "3/3 not converging" in capsys.readouterr().out
    report = json.loads((tmp_path / "diagnosis.json").read_text())
    fine, shuffled, broken = report["runs"]
    assert len(fine["curves"]["val/accuracy"]) == 2
    assert fine["reference"] > 0.6 > 0.2 > shuffled["reference"]
    assert broken["curves"]["val/loss"] == [None]
    assert "Thresholds set on these: " in (tmp_path / "diagnosis.md").read_text()

    recipes["fine"] = dataclasses.replace(recipes["fine"], epochs=1)
    diagnosis.main(options)
    printed = capsys.readouterr().out
    assert "1/3 good fit" in printed
    assert "2/3" not in printed  # it is there already
    diagnosis.main([*options, "--refit"])
    assert "1/3" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="run without --refit first"):
        diagnosis.main([*options, "--refit", f"--results={tmp_path / 'none'}"])


# What is committed.


def test_committed_thresholds_are_the_defaults() -> None:
    report = json.loads((COMMITTED / "diagnosis.json").read_text())
    assert report["thresholds"] == dataclasses.asdict(Thresholds())
    runs = report["runs"]
    assert len({(r["dataset"], r["seed"], r["name"]) for r in runs}) == len(runs)
    parts = diagnosis.groups(runs)
    assert len(parts["Thresholds set on these"]) == 2 * len(COLLECTION)
    assert len(parts["Held out, MNIST"]) >= len(COLLECTION)
    assert all(r["recipe"] == dataclasses.asdict(COLLECTION[r["name"]]) for r in runs)
    assert diagnosis.report(runs, Thresholds()) in (COMMITTED / "diagnosis.md").read_text()


def test_committed_matrix_stands_in_the_docs() -> None:
    runs = json.loads((COMMITTED / "diagnosis.json").read_text())["runs"]
    page = (COMMITTED.parents[1] / "docs" / "diagnosis.md").read_text()
    held_out = diagnosis.groups(runs)["Held out"]
    assert diagnosis.confusion(held_out, Thresholds()) in page
    right = diagnosis.correct(held_out, Thresholds())
    assert f"{right} of {len(held_out)}" in page
    for name in diagnosis.FITTED:
        assert f"| `{name}` | {getattr(Thresholds(), name):g} |" in page


def test_measures_are_what_the_thresholds_are_compared_with() -> None:
    names = {field.name for field in dataclasses.fields(Measures)}
    assert {diagnosis._MEASURE.get(name, name) for name in diagnosis.FITTED} <= names
    assert set(KINDS) == {recipe.kind for recipe in COLLECTION.values()}
    assert diagnose(low(0.9, "")["curves"], 10, 0.7).kind == "good fit"
