"""The tuning loop's command line on real data: what it keeps, why, and what it leaves behind."""

import re
from pathlib import Path

import optuna
import pytest
import yaml

import compare
import train
from foundation.run_folder import program

# A rate at which hardly anything is learned: the usual one is the suggestion.
START = """
trainer: {accelerator: cpu, max_epochs: 2, limit_val_batches: 8, num_sanity_val_steps: 0}
model:
  class_path: MLP
  init_args:
    hidden_size: 16
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: RATE}}
data:
  class_path: FashionMNISTDataModule
  init_args: {root: ROOT, batch_size: 64, train_fraction: 0.1}
"""
SMALL = ["--sample=0.5", "--workers=1"]


@pytest.fixture
def place(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two starts, in which the commands run."""
    for name, rate in (("slow", "0.0001"), ("wild", "1.0e+30")):
        text = START.replace("ROOT", str(data_root)).replace("RATE", rate)
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def studied(name: str, part: str) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///runs/advise/{name}/{part}/study.db"
    return optuna.load_study(study_name=f"{name}-{part}", storage=storage).trials


@pytest.mark.slow
def test_from_a_poor_start_to_a_configuration(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compare.main(["advise", "--config", "slow.yaml", *SMALL, "--budget=24"])
    out, error = capfd.readouterr()
    assert error == ""
    folder = Path("runs/advise/slow")
    steps = (folder / "steps.txt").read_text()
    assert steps.splitlines()[0].startswith("$ python compare.py advise --config slow.yaml")
    # Each step with its reason; what is printed is what is written.
    for line in steps.splitlines()[2:]:
        assert line in out
    assert "round 1: start, val/accuracy 0." in steps
    assert "not converging (4 of 4 runs)" in steps
    assert re.search(r"lr=0.02 +\+\d.*, better, time × .*  \(a higher rate: the usual", steps)
    assert re.search(r"^  keep lr=0.02(, the best of \d that helped)?$", steps, re.MULTILINE)
    assert "round 2: lr=0.02, val/accuracy" in steps
    assert "\nstop: " in steps
    assert "confirmation: lr=0.02" in steps
    assert "confirmed: test accuracy 0." in steps
    assert f"{program('train.py')} fit --config runs/advise/slow/advised.yaml" in out

    # The test images are looked at in the confirmation only.
    sample = studied("slow", "sample")
    assert not any(name.startswith("test/") for t in sample for name in t.user_attrs["measured"])
    assert len(sample) <= 24
    assert len({str(trial.user_attrs["values"]) for trial in sample}) == len(sample)
    confirmed = studied("slow", "confirmation")
    values = {
        (t.user_attrs["values"]["variant"], t.user_attrs["values"]["seed"]) for t in confirmed
    }
    (advised,) = {variant for variant, _ in values if variant != "start"}
    assert advised.startswith("lr=0.02")
    assert values == {(name, seed) for name in ("start", advised) for seed in range(4)}
    assert (folder / "confirmation" / "report.html").is_file()

    # The configuration is complete, and is what was confirmed.
    text = (folder / "advised.yaml").read_text()
    assert "#   lr=0.02: +" in text
    config = yaml.safe_load(text)
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.02
    assert config["data"]["init_args"]["train_fraction"] == 0.1
    train.main(["fit", "--config", str(folder / "advised.yaml"), "--trainer.fast_dev_run=true"])
    capfd.readouterr()

    # Again: the same, without training.
    compare.main(["advise", "--config", "slow.yaml", *SMALL, "--budget=24"])
    capfd.readouterr()
    assert [t.datetime_complete for t in studied("slow", "sample")] == [
        trial.datetime_complete for trial in sample
    ]
    assert (folder / "steps.txt").read_text() == steps
    assert (folder / "advised.yaml").read_text() == text

    with pytest.raises(SystemExit):
        compare.main(["advise", "--config", "slow.yaml", "--sample=0.3"])
    message = capfd.readouterr().err
    assert "slow/sample holds runs of start with another configuration" in message
    assert (folder / "steps.txt").read_text() == steps


def test_a_start_whose_loss_is_no_number_is_worth_chance(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compare.main(["advise", "--config", "wild.yaml", *SMALL, "--seeds=[0,1]", "--budget=4"])
    out, error = capfd.readouterr()
    assert error == ""
    assert "0.1000 ± 0.0000 (n = 2, 2 diverged and counted as chance)" in out
    assert "not converging (2 of 2 runs); with seed 0: the loss was no number in epoch 1" in out
    # The budget is enough for the first suggestion only.
    assert {t.user_attrs["values"]["variant"] for t in studied("wild", "sample")} == {
        "start",
        "lr=0.02",
    }
    assert "lr=0.02" in out
    assert "not tried: batch_norm: the budget allows no more" in out


def test_values_beside_files_and_suggestions_that_the_budget_fixes(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A short good fit is told to train longer, which no run of the sample may."""
    start = ["slow.yaml", "--config", "model.init_args.optimizer.init_args.lr=0.05"]
    command = ["advise", "--config", *start, "--sample=0.5", "--seeds=[0,1]", "--budget=4"]
    compare.main([*command, "--name=named"])
    out = capfd.readouterr().out
    assert "not tried: max_epochs=4 (twice the epochs: it was still improving)" in out
    assert "all runs get the same budget" in out
    assert Path("runs/advise/named/steps.txt").is_file()
    assert studied("named", "sample")[0].user_attrs["measured"]["epochs"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: config"),
        (["--config", "none.yaml"], "config: none.yaml is no file; expected one, or key=value"),
        (["--config", "model.init_args.hidden_size=3"], "config names no file"),
        (["--config", "slow.yaml", "--sample=0"], "sample is 0.0; expected a share in (0, 1]"),
        (["--config", "slow.yaml", "--seeds=[1]"], "seeds is [1]; expected two different ones"),
        (["--config", "slow.yaml", "--budget=7"], "budget is 7; expected at least 8"),
        (["--config", "slow.yaml", "--epochs=0"], "epochs is 0; expected at least 1"),
        (["--config", "slow.yaml", "--workers=0"], "workers is 0; expected at least 1"),
        (["--config", "slow.yaml", "model.init_args.hiden_size=3"], "hiden_size"),
        (
            ["--config", "slow.yaml", "trainer.max_epochs=null"],
            "names no max_epochs; give --epochs",
        ),
        (["--config", "slow.yaml", "data.init_args.val_size=0"], "val_size is 0; tuning is"),
    ],
)
def test_a_mistake_is_answered_in_a_line(
    options: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(["advise", *options])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()
