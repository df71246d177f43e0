"""jsonargparse reads YAML within bounds, with our loader only."""

import subprocess
import sys

import pytest
import yaml
from jsonargparse import ArgumentParser, get_loader

from foundation.checkout import ROOT
from foundation.workarounds import bounded_yaml
from foundation.yaml_text import UnboundedYAMLError

BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


def test_a_bomb_is_refused_by_its_loader() -> None:
    with pytest.raises(UnboundedYAMLError):
        get_loader("yaml")(BOMB)


def test_a_bomb_is_no_number() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--number", type=int)
    with pytest.raises(Exception, match="number") as error:
        parser.parse_args([f"--number={BOMB}"])
    assert len(str(error.value)) < 5_000


def test_yaml_is_read_as_before() -> None:
    for text in ("a: 1e-3", "b: [1, 2.5, yes, null, 2024-01-01]", "*", "&", "{x: &x 1, y: *x}"):
        try:
            expected = yaml.load(text, Loader=bounded_yaml._Loader)
        except yaml.YAMLError:
            continue
        assert yaml.load(text, Loader=bounded_yaml.BoundedLoader) == expected


def test_jsonargparse_alone_still_reads_bombs() -> None:
    """Where this fails, bounded_yaml.py can go."""
    code = f"from jsonargparse import get_loader; print(len(get_loader('yaml')({BOMB!r})))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "9"
