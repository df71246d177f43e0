import csv
import io
import math
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import optuna
import pytest
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from studies.search.search_report import (
    best_first,
    summary,
    trials_table,
    write_report,
    write_trials_csv,
)

LR, CROP = "model.init_args.optimizer.init_args.lr", "data.init_args.augmentation"
CHOICES = ["null", '{"class_path": "a.b.Crop", "init_args": {"padding": 2}}', "<script>[red]"]
SPACE: dict[str, BaseDistribution] = {
    LR: FloatDistribution(1e-4, 1, log=True),
    CROP: CategoricalDistribution(CHOICES),
}
DEFINITION = {
    "name": "rate",
    "metric": "val/accuracy",
    "direction": "maximize",
    "epochs": 4,
    "seeds": [0],
    "base": ["configs/baseline_cnn.yaml"],
}
REASON = "ValueError: <script>alert(1)</script> [bold]"
CONFIRMATION: dict[str, Any] = {
    "variants": {"base": [0.91, 0.92, 0.93], "winner": [0.92, 0.94, 0.93]},
    "seeds": [0, 1, 2],
    "difference": {"mean": 0.01, "low": -0.0148, "high": 0.0348, "n": 3},
    "config": "model:\n  lr: 0.1\n",
}


def trial(state: TrialState, value: float | None = None, epochs: int = 4, **kw: Any) -> FrozenTrial:
    drawn = {LR: kw.pop("lr", 0.1), CROP: CHOICES[kw.pop("crop", 0)]}
    attributes = {"epochs": epochs, "seconds": 2.0 * epochs, **kw}
    steps = {} if value is None else {e: value - (epochs - e) / 10 for e in range(1, epochs + 1)}
    return create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=kw.get("values", drawn),
        distributions=SPACE,
        user_attrs=attributes,
        intermediate_values=steps,
    )


@pytest.fixture
def study() -> optuna.Study:
    """Completed 0, 3 (best) and 5, pruned 1, 4 and 7, failed 2, running 6."""
    study = optuna.create_study(direction="maximize")
    study.set_user_attr("definition", DEFINITION)
    study.add_trials(
        [
            trial(TrialState.COMPLETE, 0.8, values={LR: 0.1, CROP: "null"}),
            trial(TrialState.PRUNED, 0.3, epochs=1, values={LR: 0.2, CROP: "null"}),
            trial(TrialState.FAIL, 0.5, epochs=1, reason=REASON, lr=0.5, crop=2),  # died early
            trial(TrialState.COMPLETE, 0.9, values={LR: 0.0123456, CROP: CHOICES[1]}, scores=[0.9]),
            trial(TrialState.PRUNED, 0.6, epochs=2, values={LR: 0.4, CROP: "null"}),
            trial(TrialState.COMPLETE, 0.7, values={LR: 0.03, CROP: CHOICES[2]}),
            trial(TrialState.RUNNING, 0.5, epochs=1),
            trial(TrialState.PRUNED, epochs=0),
        ]
    )
    return study


def printed(study: optuna.Study, limit: int | None = None, width: int = 120) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(trials_table(study, limit))
    return file.getvalue()


# The order.


def test_best_first(study: optuna.Study) -> None:
    assert [trial.number for trial in best_first(study)] == [3, 0, 5, 4, 1, 7, 2]


def test_best_first_when_minimized() -> None:
    study = optuna.create_study(direction="minimize")
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    study.add_trials([trial(state, value) for state in states for value in (0.8, 0.2, 0.5)])
    study.add_trial(trial(TrialState.COMPLETE, math.inf))
    assert [trial.number for trial in best_first(study)] == [1, 2, 0, 6, 4, 5, 3]


def test_best_first_of_nothing() -> None:
    assert best_first(optuna.create_study()) == []


# In words.


def test_summary(study: optuna.Study) -> None:
    assert summary(study) == [
        "Best val/accuracy: 0.9000, trial 3, with lr 0.01235, augmentation Crop(padding=2).",
        "8 trials: 1 running, 3 completed, 3 pruned, 1 failed.",
        "The completed and pruned trials trained 15 of 24 epochs (62%); "
        "pruning and early stopping saved the rest.",
        "Failed trials trained 1 more.",
    ]


def test_summary_over_seeds() -> None:
    study = optuna.create_study(direction="maximize")
    study.set_user_attr("definition", {**DEFINITION, "seeds": [0, 1]})
    study.add_trial(trial(TrialState.COMPLETE, 0.5, epochs=8, scores=[0.4, 0.6]))
    assert summary(study) == [
        "Best val/accuracy: 0.5000 (mean of 2 seeds), trial 0, with lr 0.1, augmentation none.",
        "1 trial: 1 completed.",
        "The completed and pruned trials trained 8 of 8 epochs (100%).",
    ]


def test_summary_of_nothing() -> None:
    assert summary(optuna.create_study()) == ["No trial has completed.", "0 trials: none."]


# The terminal.


def test_table_is_sorted_and_ends_with_reasons(study: optuna.Study) -> None:
    text = printed(study)
    head, *lines = [line.split() for line in text.splitlines() if line.strip(" ─")]
    assert head == [
        *("trial", "val/accuracy", "state", "epochs", "seconds"),
        *("lr", "augmentation"),
    ]
    assert lines[0] == ["3", "0.9000", "completed", "4", "8.0", "0.01235", "Crop(padding=2)"]
    assert [line[0] for line in lines[:7]] == ["3", "0", "5", "4", "1", "7", "2"]
    assert lines[6] == ["2", "—", "failed", "1", "2.0", "0.5", "<script>[red]"]
    assert f"trial 2 failed: {REASON}" in text  # its brackets are no markup


def test_table_with_a_limit(study: optuna.Study) -> None:
    text = printed(study, limit=2)
    assert "3 of 7 finished trials" in text
    assert "0.7000" not in text
    assert f"trial 2 failed: {REASON}" in text


def test_table_of_many_parameters_fits_a_usual_terminal() -> None:
    study = optuna.create_study()
    values = {f"model.init_args.parameter_{i}": i / 7 for i in range(9)}
    study.add_trial(create_trial(value=1.0, user_attrs={"values": values}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"reason": "why " * 40}))
    text = printed(study, width=80)
    assert max(map(len, text.splitlines())) <= 80
    squeezed = " ".join(text.split())
    assert all(f"{i / 7:.4g}" in squeezed for i in range(9))
    assert text.count("why") == 40


def test_table_of_nothing_and_of_a_failure_without_a_reason() -> None:
    study = optuna.create_study()
    assert "trial" in printed(study)
    study.add_trial(create_trial(state=TrialState.FAIL))
    assert "trial 0 failed: no reason recorded" in printed(study)


def test_an_architecture_is_one_column() -> None:
    study = optuna.create_study(direction="maximize")
    key = "model.init_args.architecture"
    tokens: dict[str, BaseDistribution] = {
        f"{key}.{i}.conv": CategoricalDistribution([16, 32]) for i in range(3)
    }
    for values in ({key: "16 32 32"}, None):  # the second one died early
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if values else TrialState.FAIL,
                value=0.5 if values else None,
                params=dict.fromkeys(tokens, 16),
                distributions=tokens,
                user_attrs={"values": values} if values else {},
            )
        )
    head, complete, failed, *_ = [line for line in printed(study).splitlines() if line.strip(" ─")]
    assert head.split()[5:] == ["architecture"]
    assert complete.rstrip().endswith("  16 32 32")
    assert failed.split()[-1] == "—"


# Files.


def test_csv(study: optuna.Study, tmp_path: Path) -> None:
    path = tmp_path / "new" / "trials.csv"
    write_trials_csv(study, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("number", "state", "value", "epochs", "seconds", "reason"),
        *(LR, CROP),
    ]
    assert [int(row["number"]) for row in rows] == list(range(8))
    assert [row["state"] for row in rows[:3]] == ["COMPLETE", "PRUNED", "FAIL"]
    assert [row["value"] for row in rows[:3]] == ["0.8", "0.3", ""]
    assert rows[2]["reason"] == REASON
    assert (rows[2][LR], rows[2][CROP]) == ("0.5", CHOICES[2])  # what was drawn
    assert (rows[3][LR], rows[3][CROP]) == ("0.0123456", CHOICES[1])  # nothing is rounded
    assert list(path.parent.iterdir()) == [path]


def test_report(study: optuna.Study, tmp_path: Path) -> None:
    facts = {"command": "python search.py <x>", "commit": "0123"}
    write_report(study, tmp_path, "seed: 1 # <best>\n", CONFIRMATION, facts)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    drawn = {"history", "learning_curves", "parallel_coordinates", "slices"}
    assert files == {"report.html", "trials.csv", *(f"figures/{name}.png" for name in drawn)}
    for name in drawn:
        shape = matplotlib.image.imread(tmp_path / "figures" / f"{name}.png").shape
        assert shape[1] == 900
    text = (tmp_path / "report.html").read_text()
    for words in (
        "<title>Search: rate</title>",
        "Best val/accuracy: 0.9000, trial 3, with lr 0.01235, augmentation Crop(padding=2).",
        "<dt>command</dt><dd>python search.py &lt;x&gt;</dd>",
        "<td>0.9200 ± 0.0100</td>",
        "+0.0100, 95% interval −0.0148 to +0.0348, paired by seed, n = 3. The interval includes",
        "ValueError: &lt;script&gt;alert(1)&lt;/script&gt; [bold]",
        "seed: 1 # &lt;best&gt;",
        "configs/baseline_cnn.yaml",
    ):
        assert words in text
    assert "<script>alert" not in text
    assert "<script>[red]" not in text
    assert set(re.findall(r"(?:src|href)=(.{6})", text)) == {'"data:'}
    body = text.split('id="trials"')[1].split("</table>")[0]
    assert re.findall(r"<tr><td[^>]*>(\d+)<", body) == ["3", "0", "5", "4", "1", "7", "2"]
    shown = text.split("Definition of the study</summary><pre>")[1].split("</pre>")[0]
    assert yaml.safe_load(shown) == DEFINITION


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ({"mean": 0.01, "low": 0.004, "high": 0.016}, "excludes zero: the winner is better."),
        ({"mean": -0.01, "low": -0.016, "high": -0.004}, "excludes zero: the winner is worse."),
        ({"mean": 0.01, "low": -0.1, "high": 0.12}, "includes zero: the difference may be chance."),
        ({"mean": 0.01, "low": math.nan, "high": math.nan}, "too few for an interval."),
        ({"mean": 0.01, "low": None, "high": None}, "too few for an interval."),
        ({"mean": None, "low": None, "high": None}, "is unknown."),
    ],
)
def test_report_says_what_the_interval_means(
    study: optuna.Study, tmp_path: Path, difference: dict[str, Any], expected: str
) -> None:
    write_report(study, tmp_path, None, {**CONFIRMATION, "difference": difference}, {})
    assert f"{expected}</p>" in (tmp_path / "report.html").read_text()


def test_report_of_an_incomplete_confirmation(study: optuna.Study, tmp_path: Path) -> None:
    variants = {"base": [0.9, None, 0.8], "winner": []}
    write_report(study, tmp_path, None, {**CONFIRMATION, "variants": variants}, {})
    text = (tmp_path / "report.html").read_text().split('id="confirmation"')[1]
    cells = re.findall(r"<td[^>]*>([^<]*)", text.split("</table>")[0])
    assert cells == [
        *("base", "0.8500 ± 0.0707", "2", "0.9000", "—", "0.8000"),
        *("winner", "—", "0", "—", "—", "—"),
    ]


def test_report_again_leaves_no_old_figure(study: optuna.Study, tmp_path: Path) -> None:
    write_report(study, tmp_path, None, None, {})
    write_report(optuna.create_study(), tmp_path, None, None, {})
    assert list((tmp_path / "figures").iterdir()) == []
    text = (tmp_path / "report.html").read_text()
    assert "No trial has completed." in text
    assert "Failures" not in text
    assert "Confirmation" not in text
