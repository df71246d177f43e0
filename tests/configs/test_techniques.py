"""Every overlay on every model: it runs, evaluates without chance, and survives a checkpoint."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from experiment.cli import ExperimentCLI
from foundation.checkout import technique

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
OVERLAYS = sorted(path.stem for path in (CONFIGS / "techniques").glob("*/*.yaml"))
MODELS = ("baseline_cnn", "optimized_cnn", "mlp", "attention_net")

# One overlay of each family: what `make test` runs, and on the baseline only.
QUICK = {
    min(folder.glob("*.yaml")).stem
    for folder in (CONFIGS / "techniques").iterdir()
    if folder.is_dir()
}

# Techniques that need what a network does not have, and the word in the line that says so.
MEANINGLESS = {
    ("deeper", "mlp"): "depth",
    ("wider", "mlp"): "width",
    ("kernel_5", "mlp"): "kernel_size",
    ("squeeze_excitation", "mlp"): "attention",
    ("criss_cross_attention", "mlp"): "attention",
    ("instance_norm", "mlp"): "norm is 'instance'",
    ("local_response_norm", "mlp"): "norm is 'local_response'",
    ("deeper", "attention_net"): "depth",
    ("kernel_5", "attention_net"): "kernel_size",
    ("squeeze_excitation", "attention_net"): "attention",
    ("criss_cross_attention", "attention_net"): "attention",
}

# Loads every checkpoint of a folder and writes the logits of the images beside it.
IN_A_FRESH_PROCESS = """
import sys
from pathlib import Path
import lightning_modules
import torch

folder = Path(sys.argv[1])
images = torch.load(folder / "images.pt")
for path in folder.glob("*.ckpt"):
    hyper_parameters = torch.load(path, weights_only=True)["hyper_parameters"]
    network = getattr(lightning_modules, hyper_parameters["_class_path"].split(".")[-1])
    model = network.load_from_checkpoint(path, weights_only=True).eval()
    with torch.no_grad():
        torch.save(model(images), path.with_suffix(".logits"))
"""


def fit(model: str, overlay: str, data_root: Path) -> ExperimentCLI:
    """Three steps of real data; no run folder."""
    return train.main(
        [
            "fit",
            f"--config={CONFIGS / model}.yaml",
            f"--config={technique(overlay)}",
            f"--data.root={data_root}",
            "--data.train_fraction=0.02",
            "--data.val_size=200",
            "--data.eval_batch_size=200",
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=3",
            "--trainer.limit_test_batches=1",
            "--trainer.limit_predict_batches=1",
            "--trainer.enable_progress_bar=false",
            "--trainer.logger=false",
        ]
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs below leave behind: a checkpoint, and the logits of eight images."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.mark.parametrize(
    ("model", "overlay"),
    [
        pytest.param(model, overlay, marks=() if quick else pytest.mark.matrix)
        for model in MODELS
        for overlay in OVERLAYS
        for quick in [model == MODELS[0] and overlay in QUICK]
    ],
)
def test_composes_with_the_model_and_evaluates_without_chance(
    model: str,
    overlay: str,
    checkpoints: Path,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if (overlay, model) in MEANINGLESS:
        with pytest.raises(SystemExit) as stop:
            fit(model, overlay, data_root)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert len(error.splitlines()) == 1
        assert MEANINGLESS[overlay, model] in error
        return
    cli = fit(model, overlay, data_root)
    assert cli.trainer.global_step == 3
    network, trainer = cli.model, cli.trainer
    for evaluate in (trainer.validate, trainer.test):
        once = evaluate(network, cli.datamodule, verbose=False)
        assert evaluate(network, cli.datamodule, verbose=False) == once
    first: Any = trainer.predict(network, cli.datamodule)
    second: Any = trainer.predict(network, cli.datamodule)
    assert torch.equal(first[0], second[0])
    images = cli.datamodule.val_set.images[:8]
    network.eval()
    with torch.no_grad():
        logits = network(images)
        assert torch.equal(logits, network(images))
    assert torch.isfinite(logits).all()
    torch.save(images, checkpoints / "images.pt")
    torch.save(logits, checkpoints / f"{model}-{overlay}.expected")
    trainer.save_checkpoint(checkpoints / f"{model}-{overlay}.ckpt")


def test_a_fresh_process_computes_the_same_logits(checkpoints: Path) -> None:
    saved = sorted(checkpoints.glob("*.expected"))
    if not saved:
        pytest.skip("needs the checkpoints of the runs above")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(checkpoints)]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=300)
    for path in saved:
        logits = torch.load(path.with_suffix(".logits"))
        # Not to the bit: the trained network chose its memory format, and kernels follow it.
        assert torch.allclose(logits, torch.load(path), rtol=1e-4, atol=1e-4), path.stem
