"""The hardware overlays compose with every recipe, and the CPU's trains."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import train

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


def test_bfloat16_on_a_cpu_trains(quick_fit: Callable[..., train.ExperimentCLI]) -> None:
    cli = quick_fit(
        f"--config={CONFIGS / 'mlp.yaml'}", f"--config={CONFIGS / 'hardware' / 'cpu_bf16.yaml'}"
    )
    assert cli.trainer.precision == "bf16-mixed"
    assert cli.trainer.global_step == 4
