"""The benchmark of REINFORCE: its reward has one optimum, and a short run leaves its tables."""

import json
from pathlib import Path

import optuna
import pytest

from benchmarks.reinforce import TARGET, main, reward
from studies.compare.paired_statistics import t_interval
from studies.search.architecture import Architecture


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        (TARGET, 1.0),
        ("conv16k5-bn-gelu|conv64k3-relu-pool|conv32k3-bn-relu|fc128", 0.95),  # no last pooling
        ("conv16k5-bn-gelu|conv64k3-relu-pool|fc128", 0.73),  # two blocks: 2 × 0.27 + 0.09 + 0.10
        ("conv16k5-bn-gelu|conv32k3-relu-pool|conv32k3-bn-relu-pool|fc128", 0.83),  # interaction
        ("conv16k5-bn-gelu|conv64k3-relu-pool|conv32k3-bn-relu-pool", 0.81),  # likewise
        ("conv64k3-relu-pool", 0.0),
    ],
)
def test_the_reward_counts_the_words_that_are_right(architecture: str, expected: float) -> None:
    assert reward(architecture) == expected


def test_the_space_holds_the_target_and_nothing_as_good() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {Architecture().suggest(study.ask(), "net") for _ in range(200)}
    assert max(map(reward, drawn - {TARGET})) < 1.0
    target: dict[str, object] = {"net.fc": 128}
    for block, stage in enumerate(TARGET.split("|")[:3]):
        layer, *words = stage.split("-")
        target |= {f"net.{block}.conv": layer, f"net.{block}.next": "block"}
        target |= {f"net.{block}.norm": "bn" if "bn" in words else "none"}
        target |= {f"net.{block}.activation": "relu" if "relu" in words else "gelu"}
        target |= {f"net.{block}.pool": "pool" if "pool" in words else "none"}
    assert Architecture().suggest(optuna.trial.FixedTrial(target), "net") == TARGET


def test_the_interval_is_students() -> None:
    # By hand: mean 2, standard deviation 1, and 4.3027 from a table of t for 2 degrees of freedom.
    low, high = t_interval([1.0, 2.0, 3.0])
    assert high == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-3)
    assert low + high == pytest.approx(4)


def test_a_short_run_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbosity = optuna.logging.get_verbosity()
    main(["--seeds", "2", "--trials", "6", "--results", str(tmp_path)])
    optuna.logging.set_verbosity(verbosity)
    text = (tmp_path / "reinforce.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert text.count("| n = 2 |") == 1
    report = json.loads((tmp_path / "reinforce.json").read_text())
    assert set(report["measures"]) == {"REINFORCE", "random"}
    for runs in report["measures"].values():
        assert len(runs) == 2
        assert all(0 <= run["best reward"] <= 1 for run in runs)
        assert all(run["mean reward of the last 50 trials"] <= run["best reward"] for run in runs)
    assert report["machine"] in text


def test_one_seed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seeds", "1"])
    assert "--seeds is 1; a standard deviation needs at least 2" in capsys.readouterr().err
