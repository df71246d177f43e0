"""docs/techniques.md says what the overlays' headers say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import techniques
from foundation.checkout import ROOT, technique

OVERLAYS = sorted(path.stem for path in techniques.OVERLAYS.glob("*/*.yaml"))


def rows() -> list[list[str]]:
    """The cells of every table row that links an overlay."""
    lines = techniques.PAGE.read_text().splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [row for row in cells if any("](../configs/techniques/" in cell for cell in row)]


def test_one_row_per_overlay() -> None:
    linked = [
        re.findall(r"\[(\w+)\]\(\.\./configs/techniques/\w+/(\w+)\.yaml\)", row[1])[0]
        for row in rows()
    ]
    assert sorted(name for name, _ in linked) == OVERLAYS
    assert all(name == file for name, file in linked)


def test_same_columns_and_no_empty_cell() -> None:
    assert all(len(row) == 6 and all(cell.strip() for cell in row) for row in rows())


def value_at(config: Any, path: list[str]) -> Any:
    """What a YAML says under an option's path, as the command line understands the path."""
    for name in path:
        if isinstance(config, list):
            config = config[-1]
        if name not in config and name + "+" not in config:
            config = config["init_args"]
        config = config[name] if name in config else config[name + "+"]
    return config[-1] if isinstance(config, list) and isinstance(config[-1], dict) else config


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1].split("]")[0].strip(" ["))
def test_option_is_what_the_overlay_sets(row: list[str]) -> None:
    name = row[1].split("]")[0].strip(" [")
    option, said = row[2].strip(" `").split(" ", 1)
    config = yaml.safe_load(technique(name).read_text())
    value = value_at(config, option.removeprefix("--").removesuffix("+").split("."))
    if isinstance(value, dict):
        assert value["class_path"].endswith(said)
    elif isinstance(value, float | int) and not isinstance(value, bool):
        assert float(said) == value
    else:
        assert yaml.safe_load(said) == value


def test_the_page_is_what_the_command_writes() -> None:
    written = techniques.PAGE.read_text()
    command = [sys.executable, "-m", "docs.techniques"]
    try:
        subprocess.run(command, cwd=ROOT, check=True, timeout=60)
        assert techniques.PAGE.read_text() == written
    finally:
        techniques.PAGE.write_text(written)


def test_every_family_has_its_section() -> None:
    folders = {path.name for path in techniques.OVERLAYS.iterdir() if path.is_dir()}
    assert folders == set(techniques.FAMILIES)


def test_a_changed_header_changes_the_page(tmp_path: Path) -> None:
    shutil.copytree(techniques.OVERLAYS, overlays := tmp_path / "techniques")
    changed = overlays / "regularization" / "dropout.yaml"
    changed.write_text(changed.read_text().replace("0.1 to 0.5", "0.2 to 0.4 | 0.9"))
    page = techniques.page("By hand.\n\n", overlays)
    assert page.startswith("By hand.\n")
    assert r"| 0.2 to 0.4 \| 0.9;" in page


@pytest.mark.parametrize("field", techniques.FIELDS)
def test_a_header_without_a_field_is_refused(field: str, tmp_path: Path) -> None:
    text = technique("dropout").read_text()
    (overlay := tmp_path / "x.yaml").write_text(re.sub(rf"# {field}: .*\n", "", text))
    with pytest.raises(ValueError, match=rf"x\.yaml: its header .* expected .*{field}"):
        techniques.header(overlay)


def test_a_source_becomes_a_link() -> None:
    source = "Polyak 1964; He et al. 2015, arXiv:1502.01852; Jordan 2024, https://x.org/muon."
    assert techniques.linked(source) == (
        "Polyak 1964; [He et al. 2015](https://arxiv.org/abs/1502.01852); "
        "[Jordan 2024](https://x.org/muon)"
    )
