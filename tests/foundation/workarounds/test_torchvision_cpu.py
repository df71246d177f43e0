"""torchvision imports and works beside a CPU build of torch, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from foundation.workarounds import torchvision_cpu

REPOSITORY = Path(__file__).parents[3]
declared_here = pytest.mark.skipif(
    torchvision_cpu.library is None, reason="torchvision's own operators load here"
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter, in the repository."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )


def test_data_sets_transforms_and_metrics_work_in_a_fresh_process(data_root: Path) -> None:
    done = python(f"""
import foundation
import torch
from torchvision.datasets import FashionMNIST
from torchvision.transforms import v2
from torchmetrics.classification import MulticlassAccuracy

data = FashionMNIST({str(data_root)!r}, train=False, download=False,
    transform=v2.Compose([v2.PILToTensor(), v2.RandomHorizontalFlip(p=1.0)]))
image, label = data[0]
print(len(data), tuple(image.shape), bool((image == data.data[0].flip(1)).all()))
accuracy = MulticlassAccuracy(10, average="micro")
print(accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])).item())
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["10000 (1, 28, 28) True", "0.75"]


@declared_here
def test_nms_is_declared_and_calling_it_explains_what_is_missing() -> None:
    done = python("""
import foundation, torch, torchvision
print(torch.ops.torchvision.nms.default._schema)
print(torch.ops.torchvision.qnms.default._schema)
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
""")
    assert done.stdout.splitlines() == [
        f"torchvision::{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms")
    ]
    assert "Couldn't load custom C++ ops" in done.stderr


@declared_here
def test_without_the_declaration_torchvision_does_not_import() -> None:
    done = python("import torchvision")
    assert "operator torchvision::nms does not exist" in done.stderr


def test_nothing_is_declared_where_the_operators_exist() -> None:
    done = python("""
import torch
own = torch.library.Library("torchvision", "DEF")
own.define("nms(Tensor a) -> Tensor")
from foundation.workarounds import torchvision_cpu
print(torchvision_cpu.library, torch.ops.torchvision.nms.default._schema)
print(hasattr(torch.ops.torchvision, "qnms"))
""")
    assert done.stdout.splitlines() == ["None torchvision::nms(Tensor a) -> Tensor", "False"]


def test_a_second_declaration_is_none() -> None:
    assert torchvision_cpu.declare_missing_operators() is None


@pytest.mark.parametrize(
    "module",
    [
        "studies",  # which imports the others
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("datamodules", "lightning_modules", "callbacks", "diagnosis", "experiment")
        ),
    ],
)
def test_each_package_imports_in_a_fresh_process(module: str) -> None:
    done = python(f"import {module}")
    assert done.returncode == 0, done.stderr
