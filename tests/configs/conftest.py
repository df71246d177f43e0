"""What the overlay tests share: models built from YAML by the real command line, real images."""

import copy
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from typing_extensions import override

from datamodules import FashionMNISTDataModule
from experiment.cli import ExperimentCLI
from foundation.checkout import technique

CONFIGS = Path(__file__).parents[2] / "configs"


class _Unrun(ExperimentCLI):
    """The whole command line up to the run itself."""

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.fixture(scope="session")
def config() -> Callable[..., list[str]]:
    """``config("batch_norm")``: the arguments for the baseline with that overlay on top."""

    def arguments(*overlays: str, base: str = "baseline_cnn") -> list[str]:
        paths = [CONFIGS / f"{base}.yaml", *map(technique, overlays)]
        return [f"--config={path}" for path in paths]

    return arguments


@pytest.fixture(scope="session")
def build(
    tmp_path_factory: pytest.TempPathFactory, data_root: Path, config: Callable[..., list[str]]
) -> Callable[..., Any]:
    """``build("batch_norm", "--model.width=8")``: the network as ``fit`` makes it, untrained."""

    @cache
    def make(*arguments: str, base: str) -> Any:
        overlays = [argument for argument in arguments if not argument.startswith("--")]
        options = [argument for argument in arguments if argument.startswith("--")]
        paths = [f"--data.root={data_root}", f"--runs_dir={tmp_path_factory.mktemp('runs')}"]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            return _Unrun(["fit", *config(*overlays, base=base), *paths, *options]).model

    def copied(*arguments: str, base: str = "baseline_cnn") -> Any:
        return copy.deepcopy(make(*arguments, base=base))

    return copied


@pytest.fixture(scope="session")
def images(data_root: Path) -> Tensor:
    """64 real test images, float in 0…1."""
    return FashionMNISTDataModule(str(data_root)).load(train=False)[0][:64].float() / 255
