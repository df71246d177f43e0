"""Screen, confirm, combine, by the command line on real data."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

import compare
import train
from foundation.checkout import CONFIGS
from studies.compare.comparison_definition import comparison_parser, compose
from studies.compare.comparison_table import Comparison, Run, rows
from studies.compare.protocol import _one_list, tune_lists, winners
from studies.training import complete_config

BASE = """
trainer: {accelerator: cpu, max_epochs: 1, num_sanity_val_steps: 0, precision: 32-true}
model:
  class_path: MLP
  init_args:
    hidden_size: 16
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1.0e-6}}
data:
  class_path: FashionMNISTDataModule
  init_args: {root: ROOT, batch_size: 64, train_fraction: 0.05}
"""
WIDE = """
model:
  init_args:
    hidden_size: 256
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.001}}
"""
FAST = """
model: {init_args: {optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1.0e-7}}}}
tune:
  model.optimizer.lr: [1.0e-7, 0.003]
"""
SETTINGS: dict[str, Any] = {
    "base": "base.yaml",
    "variants": {"fast": "fast.yaml", "wide": "wide.yaml"},
    "seeds": [0, 1, 2, 3],
    "screen": [100],
}


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.yaml").write_text(BASE.replace("ROOT", str(data_root)))
    (tmp_path / "fast.yaml").write_text(FAST)
    (tmp_path / "wide.yaml").write_text(WIDE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, **settings: Any) -> str:
    Path(f"{name}.yaml").write_text(yaml.safe_dump({**SETTINGS, **settings}, sort_keys=False))
    return f"--config={name}.yaml"


def trials(name: str, folder: str) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///runs/compare/{folder}/study.db"
    return optuna.load_study(study_name=name, storage=storage).trials


def test_screened_confirmed_and_combined(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = write("whole")
    compare.main([given])
    out, error = capfd.readouterr()
    assert error == ""
    assert "report: runs/compare/whole/combination/report.html" in out

    # The screen has the tuned variant's values and nothing of the test images.
    screened = trials("whole-screen", "whole/screen")
    assert [t.user_attrs["values"]["variant"] for t in screened] == ["fast 1e-07", "fast 0.003"]
    assert not any(name.startswith("test/") for t in screened for name in t.user_attrs["measured"])
    assert {t.user_attrs["values"]["seed"] for t in screened} == {100}

    # What was chosen is what is compared, with the other seeds.
    study = optuna.load_study(
        study_name="whole", storage="sqlite:///runs/compare/whole/study.db"
    ).user_attrs["definition"]
    (tuned,) = study["tuned"]
    assert (tuned["chosen"], tuned["values"]) == ("0.003", ["1e-07", "0.003"])
    rate = yaml.safe_load(study["configs"]["/fast"])["model"]["init_args"]["optimizer"]["init_args"]
    assert rate["lr"] == 0.003
    assert "tune" not in yaml.safe_load(study["configs"]["/fast"])
    page = Path("runs/compare/whole/results.md").read_text()
    assert re.search(
        r"Tuned on validation images, with seeds 100 \(2 trainings, \d+ s in all\)", page
    )
    assert "fast 0.003 (of 1e-07, 0.003)." in page
    with open("runs/compare/whole/results.csv", newline="") as file:
        verdicts = {row["variant"]: row["verdict"] for row in csv.DictReader(file)}
    assert verdicts == {"base": "base", "fast": "better", "wide": "better"}

    # Together, with seeds of its own.
    combined = trials("whole-combination", "whole/combination")
    assert {t.user_attrs["values"]["seed"] for t in combined} == {101, 102, 103, 104}
    assert {t.user_attrs["values"]["variant"] for t in combined} == {"base", "fast + wide"}
    text = Path("runs/compare/whole/combination.yaml").read_text()
    assert text.startswith("# fast + wide: what was better in whole, together.\n# Better than base")
    config = yaml.safe_load(text)["model"]["init_args"]
    assert (config["optimizer"]["init_args"]["lr"], config["hidden_size"]) == (0.001, 256)
    train.main(
        ["fit", "--config=runs/compare/whole/combination.yaml", "--trainer.fast_dev_run=true"]
    )
    capfd.readouterr()

    # Again: nothing is trained again.
    before = [t.datetime_complete for t in [*screened, *trials("whole", "whole")]]
    compare.main([given])
    again = [*trials("whole-screen", "whole/screen"), *trials("whole", "whole")]
    assert [t.datetime_complete for t in again] == before


def test_a_step_of_a_chain_is_tuned_in_its_own_values_only(place: Path) -> None:
    given = write("chained", chain=True, tune={})
    settings = comparison_parser().parse_args([given])
    assert tune_lists(settings, compose(settings)) == {
        "/fast": ("model.optimizer.lr", ["1e-07", "0.003"])
    }


def test_the_best_of_a_family_is_combined() -> None:
    rng = np.random.default_rng(0)
    names = ["base", "a", "b", "c", "d"]
    runs = [
        Run("", name, seed, {"test/accuracy": 0.8 + 0.02 * i + rng.normal(0, 0.001)})
        for i, name in enumerate(names)
        for seed in range(5)
    ]
    of = Comparison("", [""], names, False, list(range(5)), {}, 1, runs)
    of.families = {"one": ["a", "c"], "other": ["b"]}
    assert winners(of, rows(of), "") == ["b", "c", "d"]


@pytest.mark.slow
def test_equal_time_gives_slow_variants_fewer_epochs(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = {"slow": "data.batch_size=2", "fast": "fast.yaml"}
    compare.main(
        [write("timed", variants=slow, equal="time", budget="trainer.max_epochs=6", seeds=[0])]
    )
    with open("runs/compare/timed/runs.csv", newline="") as file:
        epochs = {run["variant"]: float(run["epochs"]) for run in csv.DictReader(file)}
    assert epochs["base"] == 6
    assert epochs["slow"] < 5
    assert "As much time as the base's" in Path("runs/compare/timed/results.md").read_text()


def test_one_is_left_out_at_a_time(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = ["base.yaml", "wide.yaml", "model.optimizer.lr=0.002", "fast.yaml"]
    compare.main([write("less", base=base, variants={}, leave_one_out=True, screen=[], seeds=[0])])
    study = optuna.load_study(
        study_name="less", storage="sqlite:///runs/compare/less/study.db"
    ).user_attrs["definition"]
    model = {
        key: yaml.safe_load(text)["model"]["init_args"] for key, text in study["configs"].items()
    }
    chosen = {
        key: (m["hidden_size"], m["optimizer"]["init_args"]["lr"]) for key, m in model.items()
    }
    assert chosen == {
        "/base": (256, 1e-7),
        "/without wide": (16, 1e-7),
        "/without fast": (256, 0.002),
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"screen": [3, 9]}, "screen has 3, which seeds has, too"),
        ({"screen": [], "equal": "time"}, "equal is time, which the screening measures"),
        ({"screen": [], "tune": {"wide": {"model.hidden_size": [1, 2]}}}, "tune is given, but no"),
        (
            {"tune": {"wide": {"model.hidden_size": [8]}}},
            "tune: wide: tune is {'model.hidden_size'",
        ),
        ({"tune": {"nobody": {"model.hidden_size": [1, 2]}}}, "tune: nobody is no variant"),
        ({"tune": {"wide": {"model.hiden_size": [1, 2]}}}, "did you mean hidden_size?"),
        ({"variants": {"wide": "wide.yaml"}}, "screen is given, but no variant has values to tune"),
        ({"base": "base.yaml", "leave_one_out": True}, "leave_one_out: base is ['base.yaml']"),
        ({"budget": "data.val_size=0"}, "val_size is 0; a screening is decided by validation"),
    ],
)
def test_a_mistake_is_answered_in_a_line(
    place: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main([write("mistaken", **changed)])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


OVERLAYS = [
    (path.stem, path, yaml.safe_load(path.read_text()).get("tune"))
    for path in sorted(CONFIGS.glob("techniques/*/*.yaml"))
]


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("path", "given"),
    [pytest.param(path, given, id=name) for name, path, given in OVERLAYS if given],
)
def test_every_overlays_own_values_compose(path: Path, given: dict[str, list[Any]]) -> None:
    key, values = _one_list(str(path), given)
    assert len(set(values)) == 3
    start = [f"--config={CONFIGS / 'baseline_cnn.yaml'}", f"--config={path}"]
    plain = complete_config(start)
    changed = [complete_config([*start, f"--{key}={value}"]) for value in values]
    assert len(set(changed)) == 3
    assert plain in changed  # its own value among them


def test_optimizers_and_schedules_are_tuned_in_their_rate() -> None:
    for name, path, given in OVERLAYS:
        if path.parent.name in ("optimizers", "schedules") and "clip" not in name:
            assert given is not None, name
            assert list(given) == ["model.optimizer.lr"], name
