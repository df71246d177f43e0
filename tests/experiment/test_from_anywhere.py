"""``train.py`` from any folder, with classes of one's own."""

import subprocess
import sys
from pathlib import Path

import pytest

from foundation.checkout import CONFIGS, ROOT, found
from foundation.run_folder import program
from studies.compare.comparison_definition import comparison_parser
from studies.compare.comparison_definition import define as define_comparison
from studies.search.search_definition import define as define_search
from studies.search.search_definition import search_parser

NETWORK = """
import torch
from lightning_modules import ImageClassifier


class MyNet(ImageClassifier):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = torch.nn.Linear(784, 10)

    def forward(self, images):
        return self.layer(self.preprocess(images).flatten(1))
"""
SHORT = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.enable_progress_bar=false",
]


def ran(folder: Path, *args: str) -> str:
    process = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *args], cwd=folder, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_recipe_of_the_checkout_trains_a_network_of_the_current_folder(
    tmp_path: Path, data_root: Path
) -> None:
    (tmp_path / "my_nets.py").write_text(NETWORK)
    args = ["--config", "configs/mlp.yaml", "--model", "my_nets.MyNet"]
    said = ran(tmp_path, "fit", *args, f"--data.root={data_root}", *SHORT)
    assert "7,850 parameters" in said.splitlines()[0]
    assert (tmp_path / "runs" / "mlp" / "version_0" / "checkpoints" / "best.ckpt").is_file()


def test_a_configuration_here_comes_before_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert found("configs/mlp.yaml") == CONFIGS / "mlp.yaml"
    assert found("configs/none.yaml") == Path("configs/none.yaml")
    Path("configs").mkdir()
    Path("configs/mlp.yaml").touch()
    assert found("configs/mlp.yaml") == Path("configs/mlp.yaml")


@pytest.mark.slow
def test_help_lists_every_command(tmp_path: Path) -> None:
    said = ran(tmp_path, "--help")
    for command in ("fit", "validate", "test", "predict", "diagnose"):
        assert f"\n    {command} " in said
    assert "folders of runs" in ran(tmp_path, "diagnose", "--help")


def test_a_wheel_brings_no_modules(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "callbacks").mkdir()
    (source / "callbacks" / "__init__.py").touch()
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    build = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    wheel = source / build.stdout.splitlines()[-1]
    target = tmp_path / "site"
    install = ["pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True)
    assert not list(target.rglob("*.py"))


def test_studies_of_the_checkout_are_read_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    searched = search_parser().parse_args(["--config=configs/search/hyperband.yaml"])
    assert "flip" in define_search(searched).space["augmentation"]["overlays"]
    options = [
        "--config=configs/compare/techniques.yaml",
        "--each=configs/techniques/attention/*.yaml",
    ]
    compared = define_comparison(comparison_parser().parse_args(options))
    assert compared.variants == ["base", "criss_cross_attention", "squeeze_excitation"]


def test_what_to_type_next_works_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert program("train.py") == f"python {ROOT / 'train.py'}"
    monkeypatch.chdir(ROOT)
    assert program("train.py") == "python train.py"
