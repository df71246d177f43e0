"""Defaults of a class end with it; what a user chose goes on to the next class."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from experiment.cli import ExperimentCLI
from foundation.checkout import CONFIGS
from foundation.workarounds import class_defaults

Parsed = Callable[..., dict[str, Any]]


@pytest.fixture
def parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Parsed:
    """The model's configuration that the command line prints; a dict stands for a YAML file."""

    def run(*arguments: str | dict[str, Any]) -> dict[str, Any]:
        args = []
        for i, argument in enumerate(arguments):
            if isinstance(argument, dict):
                path = tmp_path / f"{i}.yaml"
                path.write_text(yaml.safe_dump({"model": argument}))
                argument = f"--config={path}"
            args.append(argument)
        with pytest.raises(SystemExit) as stop:
            train.main(["fit", "--data=FashionMNISTDataModule", *args, "--print_config"])
        assert stop.value.code == 0
        return yaml.safe_load(capsys.readouterr().out)["model"]

    return run


def optimizer(name: str, **init_args: Any) -> dict[str, Any]:
    return {"optimizer": {"class_path": f"torch.optim.{name}", "init_args": init_args}}


BASELINE = {
    "class_path": "BaselineCNN",
    "init_args": {"width": 5, **optimizer("Adam", lr=0.005, betas=[0.8, 0.9])},
}


def test_an_optimizer_after_another_has_its_own_defaults_and_the_users_values(
    parsed: Parsed,
) -> None:
    for change in (
        ["--model.optimizer=torch.optim.AdamW"],
        [{"init_args": optimizer("AdamW")}],
        [{"class_path": "BaselineCNN", "init_args": optimizer("AdamW")}],
    ):
        chosen = parsed(BASELINE, *change)["init_args"]["optimizer"]
        assert chosen["class_path"] == "torch.optim.AdamW"
        assert chosen["init_args"]["weight_decay"] == 0.01
        assert chosen["init_args"]["lr"] == 0.005
        assert chosen["init_args"]["betas"] == [0.8, 0.9]


def test_an_optimizer_back_and_forth_ends_with_the_last_ones_defaults(parsed: Parsed) -> None:
    chosen = parsed(
        BASELINE,
        "--model.optimizer=torch.optim.AdamW",
        "--model.optimizer=torch.optim.NAdam",
        "--model.optimizer=torch.optim.Adam",
    )["init_args"]["optimizer"]
    assert chosen["class_path"] == "torch.optim.Adam"
    assert chosen["init_args"]["weight_decay"] == 0
    assert chosen["init_args"]["lr"] == 0.005


def test_arguments_that_the_next_optimizer_lacks_are_left_behind(parsed: Parsed) -> None:
    chosen = parsed(BASELINE, "--model.optimizer=torch.optim.SGD")["init_args"]["optimizer"]
    assert chosen["class_path"] == "torch.optim.SGD"
    assert chosen["init_args"]["lr"] == 0.005
    assert chosen["init_args"]["momentum"] == 0
    assert "betas" not in chosen["init_args"]


def test_a_value_given_after_the_class_is_the_new_classs(parsed: Parsed) -> None:
    chosen = parsed(
        BASELINE, "--model.optimizer=torch.optim.AdamW", "--model.optimizer.weight_decay=0"
    )["init_args"]["optimizer"]
    assert chosen["init_args"]["weight_decay"] == 0


@pytest.mark.parametrize(
    "change", ["--model=OptimizedCNN", {"class_path": "OptimizedCNN"}], ids=["argument", "yaml"]
)
def test_the_optimized_network_after_the_baseline_has_its_techniques_on(
    parsed: Parsed, change: Any
) -> None:
    model = parsed(BASELINE, change)
    arguments = model["init_args"]
    assert model["class_path"].endswith("OptimizedCNN")
    assert (arguments["norm"], arguments["dropout"]) == ("batch", 0.5)
    assert arguments["initializer"]["class_path"].endswith("HeUniform")
    assert arguments["width"] == 5
    assert arguments["optimizer"]["class_path"] == "torch.optim.Adam"
    assert arguments["optimizer"]["init_args"]["lr"] == 0.005
    assert arguments["optimizer"]["init_args"]["betas"] == [0.8, 0.9]


def test_what_a_user_set_on_the_baseline_stays_on_the_optimized_network(parsed: Parsed) -> None:
    chosen = {"class_path": "BaselineCNN", "init_args": {"norm": "layer", "dropout": 0.1}}
    arguments = parsed(chosen, "--model=OptimizedCNN")["init_args"]
    assert (arguments["norm"], arguments["dropout"]) == ("layer", 0.1)


def test_the_baseline_after_the_optimized_network_has_its_techniques_off(parsed: Parsed) -> None:
    arguments = parsed("--model=OptimizedCNN", "--model.width=5", "--model=BaselineCNN")[
        "init_args"
    ]
    assert (arguments["norm"], arguments["dropout"]) == (None, 0.0)
    assert arguments["initializer"] is None
    assert arguments["width"] == 5


def test_an_overlay_that_changes_arguments_needs_no_class(parsed: Parsed) -> None:
    overlay = {
        "init_args": {"dropout": 0.25, "optimizer": {"init_args": {"lr": 0.5}}},
    }
    model = parsed(BASELINE, overlay)
    assert model["class_path"].endswith("BaselineCNN")
    assert model["init_args"]["dropout"] == 0.25
    assert model["init_args"]["width"] == 5
    assert model["init_args"]["optimizer"]["init_args"]["lr"] == 0.5
    assert model["init_args"]["optimizer"]["init_args"]["betas"] == [0.8, 0.9]


def test_an_overlay_changes_one_value_of_a_schedule(parsed: Parsed) -> None:
    schedule = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3}}
    first = {"class_path": "BaselineCNN", "init_args": {"lr_scheduler": schedule}}
    second = {"init_args": {"lr_scheduler": {"init_args": {"gamma": 0.5}}}}
    chosen = parsed(first, second)["init_args"]["lr_scheduler"]["init_args"]
    assert (chosen["step_size"], chosen["gamma"]) == (3, 0.5)


def test_what_is_parsed_is_what_trains(
    quick_fit: Callable[..., ExperimentCLI], tmp_path: Path
) -> None:
    path = tmp_path / "baseline.yaml"
    path.write_text(yaml.safe_dump({"model": BASELINE}))
    cli = quick_fit(
        f"--config={path}",
        "--model=OptimizedCNN",
        "--model.optimizer=torch.optim.AdamW",
        "--trainer.logger=false",
        f"--checkpoint.dirpath={tmp_path}",
        "--test_best=false",
        batches=1,
    )
    group = cli.trainer.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (0.005, 0.01, (0.8, 0.9))
    kinds = [type(layer).__name__ for layer in cli.model.modules()]
    assert kinds.count("BatchNorm2d") == 2
    assert cli.model.features[0][0].out_channels == 5


def test_a_written_value_stays_though_it_equals_the_old_classs_default(parsed: Parsed) -> None:
    chosen = parsed(f"--config={CONFIGS / 'baseline_cnn.yaml'}", "--model.optimizer=RMSprop")
    assert chosen["init_args"]["optimizer"]["class_path"] == "torch.optim.RMSprop"
    assert chosen["init_args"]["optimizer"]["init_args"]["lr"] == 0.001
    written = {"class_path": "BaselineCNN", "init_args": {"dropout": 0.0, "norm": None}}
    arguments = parsed(written, "--model=OptimizedCNN")["init_args"]
    assert (arguments["norm"], arguments["dropout"]) == (None, 0.0)


def test_a_complete_configuration_counts_as_written(parsed: Parsed) -> None:
    complete = parsed(BASELINE)
    chosen = parsed(complete, "--model.optimizer=AdamW")["init_args"]["optimizer"]["init_args"]
    assert (chosen["lr"], chosen["weight_decay"]) == (0.005, 0)
    assert parsed(complete) == complete


def test_the_patch_says_so_when_jsonargparse_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(class_defaults.typehints, class_defaults._NAME)
    with pytest.raises(ImportError, match=r"constraints\.txt"):
        runpy.run_path(class_defaults.__file__)


def test_the_patch_is_still_needed(parsed: Parsed, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, jsonargparse lets defaults end with their class: delete the workaround."""
    monkeypatch.setattr(class_defaults.typehints, class_defaults._NAME, class_defaults._keep_valid)
    chosen = parsed({"class_path": "BaselineCNN"}, "--model.optimizer=RMSprop")
    assert chosen["init_args"]["optimizer"]["init_args"]["lr"] == 0.001  # Adam's default
