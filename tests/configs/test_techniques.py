"""Every overlay on every model: it runs, evaluates without chance, and survives a checkpoint."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

import train
from datamodules import ImageDataModule
from experiment.cli import ExperimentCLI
from foundation.checkout import technique
from lightning_modules import BaselineCNN, ZCAWhitening

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
OVERLAYS = sorted(path.stem for path in (CONFIGS / "techniques").glob("*/*.yaml"))
NORMS = [path.stem for path in (CONFIGS / "techniques" / "normalization").glob("*.yaml")]
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
    **{(name, "searched_cnn"): "activation" for name in OVERLAYS if "activation" in name},
    **{(name, "searched_cnn"): "norm" for name in NORMS},
    ("dropout", "searched_cnn"): "dropout",
    ("deeper", "searched_cnn"): "depth",
    ("wider", "searched_cnn"): "width",
    ("kernel_5", "searched_cnn"): "kernel_size",
    ("squeeze_excitation", "searched_cnn"): "attention",
    ("criss_cross_attention", "searched_cnn"): "attention",
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


class Stripes(ImageDataModule):
    """Twelve directions of stripes, in color: 240 + 48 images of 40×56 pixels."""

    class_names = tuple(f"{15 * number} degrees" for number in range(12))

    def load(self, train: bool) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(train))
        labels = torch.arange(240 if train else 48) % 12
        angle = labels[:, None, None] * torch.pi / 12
        waves = torch.sin(torch.arange(56) * angle.cos() + torch.arange(40)[:, None] * angle.sin())
        noise = torch.randn(len(labels), 3, 40, 56, generator=generator)
        return (128 + 60 * waves[:, None] + 20 * noise).clamp(0, 255).byte(), labels


SMALL = {
    "baseline_cnn": ("--model.width=2", "--model.hidden_size=4"),
    "optimized_cnn": ("--model.width=2", "--model.hidden_size=4"),
    "mlp": ("--model.hidden_size=4",),
    "attention_net": ("--model.width=2", "--model.hidden_size=4"),
    "searched_cnn": ("--model.architecture=conv2k3-relu-pool|fc4",),
}


def fit_stripes(model: str, overlay: str, *options: str) -> ExperimentCLI:
    """Two steps of images of another shape and another number of classes."""
    return train.main(
        [
            "fit",
            f"--config={CONFIGS / model}.yaml",
            f"--config={technique(overlay)}",
            *SMALL[model],
            "--data=Stripes",
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=2",
            "--trainer.limit_test_batches=1",
            "--trainer.limit_val_batches=1",
            "--trainer.precision=32-true",
            "--trainer.enable_progress_bar=false",
            "--trainer.logger=false",
            *options,
        ]
    )


QUICK_STRIPES = {
    ("random_crop", "baseline_cnn"),
    ("standardize_pixels", "mlp"),
    ("cutmix", "optimized_cnn"),
    ("zca_whitening", "attention_net"),
    ("ema", "searched_cnn"),
}


@pytest.mark.parametrize(
    ("overlay", "model"),
    [
        pytest.param(*pair, marks=() if pair in QUICK_STRIPES else pytest.mark.matrix)
        for pair in itertools.product(OVERLAYS, SMALL)
    ],
)
def test_trains_on_data_of_another_shape_with_no_further_option(
    overlay: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if (overlay, model) in MEANINGLESS:
        with pytest.raises(SystemExit) as stop:
            fit_stripes(model, overlay)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert len(error.splitlines()) == 1
        assert MEANINGLESS[overlay, model] in error
        return
    cli = fit_stripes(model, overlay)
    assert cli.trainer.global_step == 2
    assert (cli.model.num_classes, cli.model.image_shape) == (12, (3, 40, 56))
    images = cli.datamodule.val_set.images[:4]
    assert cli.model.eval()(images).shape == (4, 12)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_input_follows_the_models_precision(precision: str) -> None:
    cli = fit_stripes("baseline_cnn", "standardize", f"--trainer.precision={precision}")
    assert cli.trainer.global_step == 2
    assert cli.trainer.test(cli.model, cli.datamodule, verbose=False)


def test_lightnings_own_weight_averaging_leaves_the_flags_whole() -> None:
    averaging = "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"
    cli = fit_stripes("baseline_cnn", "standardize", averaging)
    assert cli.model.initialized == cli.model.preprocessing.fitted == 1


def test_plain_python_needs_no_shape_and_a_checkpoint_knows_it(tmp_path: Path) -> None:
    model, data = BaselineCNN(width=2, hidden_size=4, preprocessing=ZCAWhitening()), Stripes()
    options: Any = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    averaging = EMAWeightAveraging()
    trainer = Trainer(
        **options,
        max_epochs=1,
        limit_train_batches=2,
        default_root_dir=tmp_path,
        callbacks=[averaging],
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["data"]["class_names"] == list(Stripes.class_names)
    assert saved["data"]["image_shape"] == [3, 40, 56]
    loaded = BaselineCNN.load_from_checkpoint(
        tmp_path / "a.ckpt", weights_only=True, preprocessing=ZCAWhitening()
    )
    assert (loaded.num_classes, loaded.image_shape) == (12, (3, 40, 56))
    assert loaded.eval()(data.train_set.images[:2]).shape == (2, 12)  # type: ignore[union-attr]


def test_what_does_not_fit_the_data_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for option, message in (
        ("--model.num_classes=5", "num_classes is 5, but the data has 12 classes"),
        ("--model.image_shape=[1,28,28]", "image_shape is (1, 28, 28), but the data's images are"),
        ("--model.depth=7", "40x56 pixels can be halved only 5 times"),
    ):
        with pytest.raises(SystemExit) as stop:
            fit_stripes("baseline_cnn", "flip", option)
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert message in error
        assert len(error.splitlines()) == 1


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
