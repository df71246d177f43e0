"""YAML that stands for more than it is long."""

import time
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import compare
import search
import train
from diagnosis.finished_runs import main
from foundation.checkout import CONFIGS
from foundation.yaml_text import UnboundedYAMLError, load_yaml


def bomb(levels: int, key: str = "a") -> str:
    """Ten values, ten times over for each level."""
    lines = [f"{key}0: &{key}0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [
        f"{key}{n}: &{key}{n} [{', '.join([f'*{key}{n - 1}'] * 10)}]" for n in range(1, levels)
    ]
    return "\n".join(lines) + "\n"


def test_every_configuration_is_within_bounds() -> None:
    for path in CONFIGS.glob("**/*.yaml"):
        assert load_yaml(path.read_text()) == yaml.safe_load(path.read_text())


def test_aliases_within_bounds_are_what_they_name() -> None:
    text = "a: &a [1, 2]\nb: *a\nc: &b {x: *a}\nd: *b\n"
    assert load_yaml(text) == {"a": [1, 2], "b": [1, 2], "c": {"x": [1, 2]}, "d": {"x": [1, 2]}}
    assert len(load_yaml(bomb(4))["a3"]) == 10


@pytest.mark.parametrize(
    "text",
    [
        bomb(9),
        "x: &x\n  <<: &y {a: 1}\n" + bomb(30),
        "a: &a [*a]\n",
        "a: &a {b: {c: *a}}\n",
        "[" * 200 + "]" * 200,
        "- " * 20_000 + "1",
        "- 1\n" * 100_001,
    ],
    ids=["aliases", "more", "itself", "below itself", "deep", "dashes", "long"],
)
def test_a_bomb_is_refused_at_once(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnboundedYAMLError):
        load_yaml(text)
    assert time.monotonic() - began < 5


BOMBS = {
    "file": bomb(9),
    "value": "seed_everything: 3\ntrainer:\n  max_epochs: |\n"
    + "".join(f"    {line}\n" for line in bomb(9).splitlines()),
    "deep": "trainer: " + "[" * 5_000,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_configuration_that_is_a_bomb_is_one_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMBS[kind])
    with pytest.raises(SystemExit) as stop:
        train.main(["fit", f"--config={tmp_path / 'bomb.yaml'}", "--model=MLP"])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert len(lines[0]) < 3_000


@pytest.mark.parametrize("program", [search, compare], ids=["search", "compare"])
def test_a_study_that_is_a_bomb_is_one_line(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text("base: configs/mlp.yaml\n" + bomb(9))
    with pytest.raises(SystemExit) as stop:
        program.main([f"--config={tmp_path / 'study.yaml'}"])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "100,000 values" in lines[0]


def test_a_run_whose_configuration_is_a_bomb_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,val/loss\n0,1,0.5\n")
    (tmp_path / "config.yaml").write_text(bomb(9))
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "100,000 values" in lines[0]
