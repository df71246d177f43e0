"""jsonargparse makes what a parameter asks for, with our replacements; when they can go."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from foundation.checkout import ROOT
from foundation.workarounds import class_paths  # noqa: F401


class Holder:
    """Takes a value of no type, a plain dict, and a class."""

    def __init__(
        self,
        anything: Any = None,
        untyped=None,
        table: dict[str, Any] | None = None,
        plain: dict | None = None,
        layer: nn.Module | None = None,
        make: Callable[[int], nn.Module] | None = None,
    ) -> None:
        self.values = (anything, untyped, table, plain, layer, make)


def held(**init_args: Any) -> tuple[Any, ...]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Holder, "holder")
    return parser.instantiate(parser.parse_object({"holder": init_args})).holder.values


SPEC = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 2}}


@pytest.mark.parametrize("name", ["anything", "untyped", "table"])
@pytest.mark.parametrize("value", [SPEC, {"deep": [SPEC]}])
def test_nothing_is_made_where_nothing_is_asked_for(name: str, value: Any) -> None:
    if name == "table" and value is SPEC:
        value = {"deep": SPEC}
    with pytest.raises(ArgumentError, match=r"(?s)holder.*torch\.nn\.Linear: nothing is made"):
        held(**{name: value})


def test_a_plain_dict_stays_one() -> None:
    assert held(plain={"deep": SPEC})[3] == {"deep": SPEC}


def test_what_is_asked_for_is_made() -> None:
    assert isinstance(held(layer=SPEC)[4], nn.Linear)
    assert isinstance(held(make={"class_path": "torch.nn.Flatten"})[5](0), nn.Flatten)


def test_a_function_that_returns_something_else_is_not_called() -> None:
    for name in ("torch.nn.init.normal_", "torch.zeros_like"):
        with pytest.raises(ArgumentError, match="function"):
            held(make={"class_path": name})


@pytest.mark.parametrize(
    "name", ["subprocess.Popen", "os.system", "torch.nn.modules.module.functools.partial"]
)
def test_the_modules_that_jsonargparse_denies_are_denied(name: str) -> None:
    with pytest.raises(ArgumentError, match="not allowed"):
        held(make={"class_path": name})


WITHOUT = """
from typing import Any, Callable
from jsonargparse import ArgumentParser, set_parsing_settings
import torch.nn as nn

set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])

def take(anything: Any = None, make: Callable[[int], nn.Module] | None = None): ...

parser = ArgumentParser(exit_on_error=False)
parser.add_function_arguments(take)
import sys
parser.parse_object({"anything": {"class_path": "this.s"}})
print("imported" if "this" in sys.modules else "not imported")
spec = {"class_path": "torch.get_num_threads"}
print(parser.instantiate(parser.parse_object({"make": spec})).make)
"""


def test_jsonargparse_alone_still_imports_and_calls() -> None:
    """Where this fails, ``set_parsing_settings`` is enough, and class_paths.py can go."""
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True
    )
    lines = process.stdout.splitlines()
    assert "imported" in lines, process.stderr
    assert lines[-1].isdigit()  # what the function returned
