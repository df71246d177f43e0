"""The hardware overlays compose with every recipe, and the CPU's trains."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import train
from experiment.cli import ExperimentCLI
from lightning_modules.image_classifier import cpp_compiler

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ("gpu", {"accelerator": "gpu", "devices": 1}),
        ("multi_gpu", {"accelerator": "gpu", "devices": -1, "strategy": "ddp"}),
        ("multi_node", {"accelerator": "gpu", "devices": 8, "num_nodes": 2, "strategy": "ddp"}),
    ],
)
def test_places_the_work_and_keeps_the_recipe(
    overlay: str, expected: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, hardware = CONFIGS / "optimized_cnn.yaml", CONFIGS / "hardware" / f"{overlay}.yaml"
    with pytest.raises(SystemExit) as stop:
        train.main(["fit", f"--config={recipe}", f"--config={hardware}", "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert {name: config["trainer"][name] for name in expected} == expected
    assert config["model"]["init_args"]["optimizer"]["init_args"]["weight_decay"] == 0.05
    assert config["data"]["init_args"]["pin_memory"] is True


@pytest.mark.skipif(not shutil.which("bash"), reason="the batch scripts are bash's")
@pytest.mark.parametrize("script", sorted((CONFIGS / "hardware/slurm").glob("*.sbatch")))
def test_batch_scripts_are_bash_and_name_what_is_there(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    named = re.findall(r"configs/[\w/]+\.(?:yaml|sbatch)", script.read_text())
    assert script.name in {Path(path).name for path in named}
    assert [path for path in named if not (CONFIGS.parent / path).is_file()] == []


def test_bfloat16_on_a_cpu_trains(quick_fit: Callable[..., ExperimentCLI]) -> None:
    cli = quick_fit(
        f"--config={CONFIGS / 'mlp.yaml'}", f"--config={CONFIGS / 'hardware' / 'cpu_bf16.yaml'}"
    )
    assert cli.trainer.precision == "bf16-mixed"
    assert cli.trainer.global_step == 4


@pytest.mark.parametrize("name", ["speedrun", pytest.param("accurate", marks=pytest.mark.slow)])
def test_the_gpus_recipes_train_on_a_cpu_too(
    name: str, quick_fit: Callable[..., ExperimentCLI]
) -> None:
    cli = quick_fit(
        f"--config={CONFIGS / 'gpu' / f'{name}.yaml'}",
        "--trainer.accelerator=cpu",
        "--trainer.check_val_every_n_epoch=1",
        "--model.compiled=false",  # see below
        "--data.batch_size=8",
        "--data.eval_batch_size=50",
        batches=2,
    )
    assert cli.trainer.global_step == 2
    assert 0 <= cli.trainer.callback_metrics["test/accuracy"] <= 1


@pytest.mark.skipif(not shutil.which(cpp_compiler()), reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "baseline_cnn"])
def test_a_compiled_network_is_the_same_network(
    quick_fit: Callable[..., ExperimentCLI], name: str
) -> None:
    def losses(compiled: bool) -> tuple[float, float]:
        cli = quick_fit(
            f"--config={CONFIGS / f'{name}.yaml'}",
            "--trainer.precision=32-true",
            "--data.batch_size=32",
            "--data.eval_batch_size=50",
            f"--model.compiled={str(compiled).lower()}",
        )
        assert (cli.model._compiled_call_impl is not None) == compiled
        metrics = cli.trainer.callback_metrics
        return metrics["test/loss"].item(), metrics["test/accuracy"].item()

    assert losses(compiled=True) == pytest.approx(losses(compiled=False), rel=1e-4)


def test_compiling_without_a_compiler_ends_with_a_line(
    quick_fit: Callable[..., ExperimentCLI],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as stop:
        quick_fit(f"--config={CONFIGS / 'mlp.yaml'}", "--model.compiled=true")
    error = capsys.readouterr().err
    assert stop.value.code not in (None, 0)
    assert f"a C++ compiler on a CPU, and there is no {cpp_compiler()}: " in error
    assert "--model.compiled false" in error
    assert "Traceback" not in error
