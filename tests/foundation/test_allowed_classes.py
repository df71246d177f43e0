"""Which names pass, and what they must lead to."""

from pathlib import Path

import pytest
import torch

from foundation.allowed_classes import AllowedClasses
from foundation.errors import UserError, printable
from foundation.run_folder import check_name
from foundation.workarounds.class_paths import RefusedClassError
from lightning_modules import MLP


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("torch.optim.SGD", torch.optim.SGD),
        ("torch.nn.ReLU", torch.nn.ReLU),
        ("lightning_modules.MLP", MLP),
    ],
)
def test_a_class_of_a_known_package_passes(name: str, found: object) -> None:
    classes = AllowedClasses()
    classes.before(name)
    classes.after(name, found)
    assert classes.refused is None


@pytest.mark.parametrize("name", ["os.system", "torch.hub.load", "torchx.nn.X", "torch.nnX", "x.y"])
def test_another_name_is_refused_before_it_is_imported(name: str) -> None:
    classes = AllowedClasses()
    with pytest.raises(RefusedClassError):
        classes.before(name)
    assert classes.refused == name


@pytest.mark.parametrize("found", [Path, torch.nn.init.normal_, torch, 3, None, len])
def test_what_a_name_leads_to_counts(found: object) -> None:
    with pytest.raises(RefusedClassError):
        AllowedClasses().after("torch.nn.Thing", found)


def test_what_the_user_names_passes() -> None:
    AllowedClasses(named=["pathlib.Path"]).before("pathlib.Path")
    AllowedClasses(trusted=["pathlib"]).after("pathlib.Path", Path)
    with pytest.raises(RefusedClassError):
        AllowedClasses(named=["pathlib.Path"]).before("pathlib.PurePath")


def test_internal_modules_are_not_had_through_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(RefusedClassError):
        AllowedClasses().before("foundation.whole_file.write")


@pytest.mark.parametrize("name", ["x", "a/b", "baseline_cnn+dropout", "a b", "x.y", "v1..2", "ü"])
def test_names_of_folders(name: str) -> None:
    check_name("--experiment", name)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/a", "a/..", "..\\a", "C:\\a", "a\0", "a\n"])
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(UserError, match="--experiment"):
        check_name("--experiment", name)


def test_a_message_is_one_printable_line() -> None:
    text = str(UserError("a\n\x1b[31mb\u202e\x00 …×"))
    assert text == "a \\x1b[31mb\\u202e\\x00 …×"
    assert printable("plain ü") == "plain ü"
