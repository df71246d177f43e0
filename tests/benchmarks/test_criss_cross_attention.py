"""The benchmark of criss-cross attention: both forms agree, and a short run leaves its tables."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.criss_cross_attention import main, memory, pair


@pytest.mark.parametrize("shape", [(2, 16, 6, 6), (3, 8, 5, 7), (1, 4, 7, 3)], ids=str)
def test_both_forms_compute_the_same(shape: tuple[int, ...]) -> None:
    layers = {name: layer.double() for name, layer in pair(shape[1]).items()}
    results, gradients = {}, {}
    for name, layer in layers.items():
        torch.manual_seed(0)
        features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        results[name] = layer(features)
        results[name].square().sum().backward()
        gradients[name] = [features.grad, *(weight.grad for weight in layer.parameters())]
    torch.testing.assert_close(results["ours"], results["usual"])
    torch.testing.assert_close(gradients["ours"], gradients["usual"])


def test_memory_counts_what_autograd_keeps_once() -> None:
    features = torch.rand(10, 100, requires_grad=True)
    # Each sigmoid keeps its own result; the input and the weights were there before.
    layer = torch.nn.Sequential(torch.nn.Sigmoid(), torch.nn.Sigmoid())
    assert memory(layer, features) == 2 * 10 * 100 * 4


def test_a_short_run_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--repeats", "2", "--sizes", "2,8,5,6;1,16,4,4", "--results", str(tmp_path)])
    text = (tmp_path / "criss_cross_attention.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert text.count("| ours |") == text.count("| usual |") == 4
    report = json.loads((tmp_path / "criss_cross_attention.json").read_text())
    for result in report["results"]:
        assert result["difference"] < 1e-5
        assert [len(each) for each in result["seconds"].values()] == [2, 2]
        assert all(size > 0 for size in result["bytes"].values())
