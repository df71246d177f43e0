"""A checkpoint or a YAML of somebody else: it runs nothing, and writes nowhere but here."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import compare
import search
import train
from experiment.cli import ExperimentCLI
from foundation.checkout import CONFIGS, ROOT
from foundation.signature import sign

COMMANDS = ("test", "validate", "predict", "fit")
SHORT = [
    *(f"--trainer.limit_{name}_batches=1" for name in ("train", "val", "test", "predict")),
    "--trainer.enable_progress_bar=false",
]
Stranger = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the data where it is by default."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "data").symlink_to(data_root)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing may be written into."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


@pytest.fixture
def marker(outside: Path) -> Path:
    """What a payload would make."""
    return outside / "ran"


@pytest.fixture
def stranger(tiny_run: Path, here: Path) -> Stranger:
    """A checkpoint of somebody else, whose configuration a function has changed."""

    def make(change: Callable[[dict[str, Any]], Any], name: str = "stranger.ckpt") -> Path:
        checkpoint = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
        config = yaml.safe_load(checkpoint["config"])
        change(config)
        checkpoint["config"] = yaml.safe_dump(config)  # and the signature is of another text
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)
        return path

    return make


def popen(marker: Path) -> dict[str, Any]:
    return {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(marker)]}}


def bar(marker: Path) -> dict[str, Any]:
    """A progress bar that writes to what it is told to make."""
    return {
        "class_path": "lightning.pytorch.callbacks.RichProgressBar",
        "init_args": {"console_kwargs": {"file": popen(marker)}},
    }


def run(command: str, path: Path | str, *args: str) -> ExperimentCLI:
    longer = ["--trainer.max_epochs=2"] if command == "fit" else []
    return train.main([command, f"--ckpt_path={path}", *longer, *SHORT, *args])


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line with which a command line is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        train.main(list(args))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


# Nothing runs.


@pytest.mark.parametrize("command", [*COMMANDS, "best"])
def test_a_command_hidden_in_a_checkpoint_does_not_run(
    stranger: Stranger, marker: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path: Path | str = stranger(
        lambda config: config["trainer"].update(callbacks=[bar(marker)]),
        "runs/theirs/version_0/checkpoints/best.ckpt",
    )
    if command == "best":
        command, path = "test", "best"
    run(command, path)
    assert not marker.exists()
    assert "not written by you" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_hidden_in_a_checkpoint_does_not_run_in_a_process_of_its_own(
    stranger: Stranger, marker: Path, command: str
) -> None:
    path = stranger(lambda config: config["trainer"].update(callbacks=[bar(marker)]))
    longer = ["--trainer.max_epochs=2"] if command == "fit" else []
    line = [sys.executable, str(ROOT / "train.py"), command, f"--ckpt_path={path}", *longer, *SHORT]
    process = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert not marker.exists()


def where(section: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set an argument of the model or the data."""

    def change(config: dict[str, Any]) -> None:
        config[section]["init_args"][name] = value

    return change


@pytest.mark.parametrize(
    ("section", "name", "class_path"),
    [
        ("model", "optimizer", "subprocess.Popen"),
        ("model", "optimizer", "os.system"),
        ("model", "optimizer", "torch.nn.modules.module.functools.partial"),
        ("model", "optimizer", "torch.hub.load"),
        ("model", "optimizer", "foundation.whole_file.write"),
        ("model", "optimizer", "datamodules.sources.fetch"),
        ("model", "optimizer", "torch.nn.init.normal_"),
        ("model", "preprocessing", "lightning.pytorch.loggers.CSVLogger"),
        ("model", "activation", "torch.jit.ScriptModule"),
        ("data", "augmentation", "logging.FileHandler"),
    ],
)
@pytest.mark.parametrize("form", ["class_path", "name"])
def test_a_class_that_is_not_on_the_list_is_refused(
    stranger: Stranger,
    outside: Path,
    capsys: pytest.CaptureFixture[str],
    section: str,
    name: str,
    class_path: str,
    form: str,
) -> None:
    value: Any = class_path
    if form == "class_path":
        value = {"class_path": class_path, "init_args": {"path": str(outside / "ran")}}
    path = stranger(where(section, name, [value] if name == "augmentation" else value))
    line = refused(capsys, "test", f"--ckpt_path={path}")
    assert f"--ckpt_path {path}: its configuration names {class_path}, " in line
    assert f"--trust {class_path.partition('.')[0]}" in line
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["model"].update(class_path="subprocess.Popen"),
        lambda config: config["data"].update(class_path="os.path.join"),
        lambda config: config["model"].update(class_path="antigravity.fly"),
    ],
)
def test_a_model_or_data_set_that_is_none_is_refused(
    stranger: Stranger, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    sys.modules.pop("antigravity", None)
    assert "its configuration names" in refused(capsys, "test", f"--ckpt_path={stranger(change)}")
    assert "antigravity" not in sys.modules


def test_a_schedule_that_would_call_a_function_is_refused(
    stranger: Stranger, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writes = {
        "class_path": "foundation.whole_file.write",
        "init_args": {"path": str(marker), "content": "ran"},
    }
    schedule = {
        "class_path": "torch.optim.lr_scheduler.LambdaLR",
        "init_args": {"lr_lambda": writes},
    }
    path = stranger(where("model", "lr_scheduler", schedule))
    assert "foundation.whole_file.write" in refused(capsys, "fit", f"--ckpt_path={path}")
    assert not marker.exists()


def test_classes_on_the_list_pass(stranger: Stranger) -> None:
    def change(config: dict[str, Any]) -> None:
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        model["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}
        model["lr_scheduler"] = {
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": {"class_path": "lightning_modules.InverseTime"}},
        }
        data["augmentation"] = [
            {"class_path": "kornia.augmentation.RandomErasing"},
            {"class_path": "datamodules.HorizontalFlip"},
            {"class_path": "torch.nn.Identity"},
        ]

    cli = run("validate", stranger(change))
    assert type(cli.model.make_optimizer([torch.zeros(1)])) is torch.optim.SGD
    assert [type(step).__name__ for step in cli.datamodule.augmentation] == [
        "RandomErasing",
        "HorizontalFlip",
        "Identity",
    ]


# Nothing is written elsewhere.


def elsewhere(outside: Path) -> Callable[[dict[str, Any]], None]:
    """Everything in a configuration that says where something is to be written."""
    folder = str(outside / "folder")

    def change(config: dict[str, Any]) -> None:
        config["runs_dir"] = folder
        config["experiment"] = f"../../{outside.name}/experiment"
        config["trainer"]["default_root_dir"] = folder
        config["trainer"]["profiler"] = {
            "class_path": "lightning.pytorch.profilers.SimpleProfiler",
            "init_args": {"dirpath": folder, "filename": "profile"},
        }
        config["trainer"]["logger"] = {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": folder},
        }
        config["trainer"]["callbacks"] = [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": folder},
            },
        ]
        config["checkpoint"]["dirpath"] = folder
        config["checkpoint"]["filename"] = f"../../../../{outside.name}/best"
        config["data"]["init_args"]["root"] = folder

    return change


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_written_elsewhere(
    stranger: Stranger, here: Path, outside: Path, command: str
) -> None:
    cli = run(command, stranger(elsewhere(outside)))
    assert list(outside.iterdir()) == []
    assert cli.datamodule.root == Path("data")
    written = {path.name for path in here.iterdir()} - {"data", "stranger.ckpt"}
    assert written <= {"runs", "predictions.csv"}


def test_the_data_lie_where_the_command_line_says(
    stranger: Stranger, here: Path, outside: Path, data_root: Path
) -> None:
    (here / "data").unlink()
    path = stranger(where("data", "root", str(outside)))
    assert run("test", path, f"--data.root={data_root}").datamodule.root == data_root


# What counts.


def test_a_run_goes_on_with_its_plain_values(stranger: Stranger, outside: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        elsewhere(outside)(config)
        del config["trainer"]["callbacks"]
        config["seed_everything"] = 7
        config["trainer"] |= {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}
        config["trainer"] |= {"precision": "32-true", "strategy": "ddp", "devices": 64}
        config["trainer"]["callbacks"] = [
            {"class_path": "callbacks.StochasticWeightAveraging", "init_args": {"start": 0.25}},
            bar(outside / "ran"),
        ]
        config["early_stopping"]["patience"] = 3
        config["checkpoint"]["monitor"] = "val/loss"
        config["lr_monitor"]["logging_interval"] = "epoch"

    # Weights averaged by nobody so far: validated, since a fit would look for their average.
    path = stranger(change)
    cli = train.main(["fit", f"--config={_counted(path)}", *SHORT, "--test_best=false"])
    trainer = cli.trainer
    assert (trainer.gradient_clip_val, trainer.accumulate_grad_batches) == (0.5, 2)
    assert trainer.precision == "32-true"
    names = [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]
    assert "StochasticWeightAveraging" in names
    assert "RichProgressBar" not in names
    assert cli.config.fit.seed_everything == 7
    assert cli.config.fit.early_stopping.patience == 3
    assert cli.config.fit.checkpoint.monitor == "val/loss"
    assert cli.config.fit.lr_monitor.logging_interval == "epoch"
    assert list(outside.iterdir()) == []


def _counted(path: Path) -> Path:
    """A file with the configuration that counts of a checkpoint, for a run that goes on."""
    from experiment.strangers_config import strangers_config
    from foundation.parser import Parser

    class Parsed(ExperimentCLI):
        def instantiate_classes(self) -> None:
            pass

        def _run_subcommand(self, subcommand: str) -> None:
            pass

    parser = Parsed(["fit", "--model=MLP", "--data=FashionMNISTDataModule"]).parser
    assert isinstance(parser, Parser)
    text = torch.load(path, weights_only=True)["config"]
    file = path.with_suffix(".yaml")
    file.write_text(strangers_config(text, "fit", [], parser, None, ""))
    return file


def test_of_an_evaluated_checkpoint_only_model_and_data_count(stranger: Stranger) -> None:
    def change(config: dict[str, Any]) -> None:
        config["seed_everything"] = 7
        config["float32_matmul_precision"] = "junk"
        config["trainer"] |= {"max_epochs": 3, "precision": "16-true", "devices": 64}
        config["model"]["init_args"]["test_time_flip"] = True
        config["data"]["init_args"] |= {"eval_batch_size": 50, "num_workers": 64}

    cli = run("test", stranger(change))
    assert cli.datamodule.num_workers == 0
    assert (cli.model.test_time_flip, cli.datamodule.eval_batch_size) == (True, 50)
    given = cli.config.test
    assert (given.seed_everything, given.float32_matmul_precision) == (0, "high")
    assert (given.trainer.max_epochs, given.trainer.precision) == (10, None)


def test_other_data_take_the_place_of_theirs(stranger: Stranger) -> None:
    path = stranger(lambda config: config["data"].update(class_path="their_package.Data"))
    cli = run("test", path, "--data=MNISTDataModule")
    assert type(cli.datamodule).__name__ == "MNISTDataModule"


@pytest.mark.parametrize("text", ["", "[", "3", "model: 3", "a: &a [*a]", "x: 2024-99-99", "{}"])
def test_a_broken_configuration_is_one_line(
    tiny_run: Path, here: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    checkpoint = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save({**checkpoint, "config": text}, here / "broken.ckpt")
    line = refused(capsys, "test", f"--ckpt_path={here / 'broken.ckpt'}")
    assert "its configuration" in line
    assert "--config" in line


@pytest.mark.parametrize(("width", "words"), [(10**15, "the network"), (10**30, "")])
def test_a_network_that_no_machine_could_hold_is_one_line(
    stranger: Stranger, capsys: pytest.CaptureFixture[str], width: int, words: str
) -> None:
    path = stranger(where("model", "width", width))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("test", path)
    note, line = capsys.readouterr().err.splitlines()
    assert "note:" in note
    assert words in line
    assert len(line) < 1000


# One's own.


def test_one_s_own_run_counts_as_a_whole(
    tiny_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copy(tiny_run / "checkpoints" / "best.ckpt", here / "moved.ckpt"))
    cli = run("test", path)
    assert cli.config.test.early_stopping.patience == 10
    assert cli.config.test.experiment == "tiny"
    assert "note:" not in capsys.readouterr().err


def test_a_signature_is_of_one_text(
    stranger: Stranger, tiny_run: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signature that was taken from the user's own checkpoint is worth nothing."""
    path = stranger(lambda config: config["trainer"].update(callbacks=[bar(marker)]))
    own = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    assert own["config_signature"] == sign(own["config"])
    assert torch.load(path, weights_only=True)["config_signature"] == own["config_signature"]
    run("test", path)
    assert not marker.exists()
    assert "note:" in capsys.readouterr().err


def test_a_run_from_before_the_signature_needs_no_flag(tiny_run: Path, here: Path) -> None:
    checkpoint = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    del checkpoint["config_signature"]
    torch.save(checkpoint, here / "old.ckpt")
    for command in COMMANDS:
        run(command, here / "old.ckpt")


NETWORK = """
import torch
from subprocess import Popen
from lightning_modules import ImageClassifier


class {name}(ImageClassifier):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = torch.nn.Linear(784, 10)

    def forward(self, images):
        return self.layer(self.preprocess(images).flatten(1))


def function(params):
    raise AssertionError("called")
"""


def test_a_network_in_the_current_folder_needs_no_flag(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own_network.py").write_text(NETWORK.format(name="OwnNetwork"))
    options = ["--model=own_network.OwnNetwork", "--data=FashionMNISTDataModule"]
    train.main(["fit", *options, *SHORT, "--trainer.max_epochs=1"])
    path = here / "runs" / "OwnNetwork" / "version_0" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["config_signature"]
    torch.save(checkpoint, here / "unsigned.ckpt")
    run("test", here / "unsigned.ckpt")
    for name in ("Popen", "function"):  # not a class of that file
        config = yaml.safe_load(checkpoint["config"])
        config["model"]["init_args"]["optimizer"] = f"own_network.{name}"
        torch.save({**checkpoint, "config": yaml.safe_dump(config)}, here / "other.ckpt")
        line = refused(capsys, "test", f"--ckpt_path={here / 'other.ckpt'}")
        assert f"names own_network.{name}" in line


def test_trust_widens_the_list(
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tmp_path / "site" / "their_networks"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(NETWORK.format(name="TheirNetwork"))
    monkeypatch.syspath_prepend(str(package.parent))
    options = ["--model=their_networks.TheirNetwork", "--data=FashionMNISTDataModule"]
    train.main(["fit", *options, *SHORT, "--trainer.max_epochs=1"])
    path = here / "runs" / "TheirNetwork" / "version_0" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["config_signature"]
    torch.save(checkpoint, path)
    line = refused(capsys, "test", f"--ckpt_path={path}")
    assert line.endswith("--trust their_networks")
    run("test", path, "--trust=kornia,their_networks")
    # What trusted is not kept: the run that goes on is the user's own from here on.
    run("fit", path, "--trust", "their_networks")
    assert "trust" not in yaml.safe_load((path.parent.parent / "config.yaml").read_text())
    run("test", path.with_name("last.ckpt"))


# A YAML.


@pytest.mark.parametrize("value", [popen, lambda marker: [popen(marker)]])
def test_nothing_is_made_in_a_yaml_where_nothing_is_asked_for(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    hidden = bar(marker)
    hidden["init_args"]["console_kwargs"] = {"file": value(marker)}
    (tmp_path / "hidden.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [hidden]}}))
    base = ["--model=MLP", "--data=FashionMNISTDataModule"]
    line = refused(capsys, "fit", f"--config={tmp_path / 'hidden.yaml'}", *base)
    assert "callbacks" in line
    assert "subprocess.Popen: nothing is made inside a value of no type" in line
    assert not marker.exists()


def test_an_import_that_nothing_asks_for_is_not_made(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "side_effect.py").write_text("open('ran', 'w')\nclass Thing: pass\n")
    hidden = bar(tmp_path)
    hidden["init_args"]["console_kwargs"] = {"file": {"class_path": "side_effect.Thing"}}
    (tmp_path / "hidden.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [hidden]}}))
    base = ["--model=MLP", "--data=FashionMNISTDataModule"]
    assert "side_effect.Thing" in refused(
        capsys, "fit", f"--config={tmp_path / 'hidden.yaml'}", *base
    )
    assert not (here / "ran").exists()


@pytest.mark.parametrize("function", ["torch.hub.load_state_dict_from_url", "subprocess.call"])
def test_a_function_in_the_place_of_a_class_is_not_called(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str], function: str
) -> None:
    optimizer = {"class_path": function, "init_args": {"url": "file:///dev/null"}}
    config = {"model": {"class_path": "MLP", "init_args": {"optimizer": optimizer}}}
    (tmp_path / "calls.yaml").write_text(yaml.safe_dump(config))
    line = refused(
        capsys, "fit", f"--config={tmp_path / 'calls.yaml'}", "--data=FashionMNISTDataModule"
    )
    assert function in line


# Names of folders.


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/tmp/x", "", ".", "a\\..\\b", "C:x"])
def test_an_experiment_that_leads_out_of_the_runs_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    base = ["--model=MLP", "--data=FashionMNISTDataModule", *SHORT]
    line = refused(capsys, "fit", *base, f"--experiment={name}")
    assert "--experiment" in line
    assert {path.name for path in here.iterdir()} == {"data"}
    assert "--experiment" in refused(capsys, "test", "--ckpt_path=best", f"--experiment={name}")


def test_an_experiment_in_a_yaml_is_checked_too(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.yaml").write_text("experiment: ../../out\n")
    config = f"--config={CONFIGS / 'mlp.yaml'}"
    assert "'../../out'" in refused(capsys, "fit", config, f"--config={tmp_path / 'out.yaml'}")


@pytest.mark.parametrize("program", [search, compare], ids=["search", "compare"])
@pytest.mark.parametrize("name", ["../out", "/tmp/out"])
def test_a_study_that_leads_out_of_the_studies_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], program: ModuleType, name: str
) -> None:
    study: dict[str, Any] = {"base": str(CONFIGS / "mlp.yaml"), "name": name}
    if program is search:
        study |= {"space": {"model.init_args.l1": {"choices": [0.0, 0.5]}}, "n_trials": 1}
    else:
        study |= {"variants": {"other": ["model.l1=0.5"]}}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    for extra in ([], [f"--name={name}"]):
        with pytest.raises(SystemExit) as stop:
            program.main(["--config=study.yaml", *extra])
        assert stop.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert f"--name '{name}': expected a name" in lines[0]
    assert {path.name for path in here.iterdir()} == {"data", "study.yaml"}
