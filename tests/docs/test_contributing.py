"""The examples of CONTRIBUTING.md do what the page says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from docs import techniques
from experiment.cli import ExperimentCLI
from foundation.checkout import ROOT

SECTIONS = (ROOT / "CONTRIBUTING.md").read_text().split("\n## ")


def example(section: str) -> str:
    """The code of a section."""
    (text,) = (part for part in SECTIONS if part.startswith(f"{section}\n"))
    (code,) = re.findall(r"^```(?:python|yaml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return code


def defined(section: str, name: str) -> Any:
    """What a section's code calls so."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example(section), section, "exec"), names)
    return names[name]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_network_data_set_and_callback_train_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = defined("A network", "GlobalPooling")()
    data = defined("A data set", "Stripes")(val_size=100, batch_size=10)
    callback = defined("A callback", "WeightNorm")()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    assert trainer.callback_metrics["weights/norm"] > 0
    assert trainer.validate(model, data, verbose=False)[0]["val/accuracy"] > 0.9


def test_technique(tmp_path: Path, quick_fit: Callable[..., ExperimentCLI]) -> None:
    (overlay := tmp_path / "cubic_lr.yaml").write_text(example("A technique"))
    assert set(techniques.header(overlay)) == {"What", *techniques.FIELDS}
    cli = quick_fit(f"--config={ROOT / 'configs' / 'mlp.yaml'}", f"--config={overlay}", batches=2)
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_test(quick_fit: Callable[..., ExperimentCLI], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    defined("A test", "test_a_constant_rate_stays")(quick_fit)
