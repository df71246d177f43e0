"""Defaults end with their class, where a configuration names another one.

jsonargparse keeps the arguments of the previous class that the new class has too. That is wanted
for what was written (``--model OptimizedCNN`` keeps the optimizer's rate), and wrong for defaults:
after Adam, AdamW would run with Adam's weight decay of 0 instead of its own 0.01
(https://github.com/mauvilsa/jsonargparse/issues/460). :class:`foundation.parser.Parser` therefore
reads what is written without any defaults, and adds them last, under :func:`adding_defaults`.

Importing this module replaces one private function of jsonargparse.

Raises:
    ImportError: this version of jsonargparse has no such function.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jsonargparse
import jsonargparse._typehints as typehints

_NAME = "discard_init_args_on_class_path_change"
_PARAMETERS = ["parser_or_action", "prev_val", "value"]
_keep_valid: Any = getattr(typehints, _NAME, None)
if not _keep_valid or [*inspect.signature(_keep_valid).parameters] != _PARAMETERS:
    raise ImportError(
        f"jsonargparse {jsonargparse.__version__} has no {_NAME}({', '.join(_PARAMETERS)}): "
        "install the version that constraints.txt names"
    )

_adding = ContextVar("_adding", default=False)


@contextmanager
def adding_defaults() -> Iterator[None]:
    """Let all arguments of a class end with it: here, they are nobody's choice."""
    token = _adding.set(True)
    try:
        yield
    finally:
        _adding.reset(token)


def _discard(parser_or_action: Any, prev_val: Any, value: Any) -> None:
    changed = prev_val and prev_val.get("class_path") != value["class_path"]
    if _adding.get() and changed and "init_args" in prev_val:
        del prev_val["init_args"]
    _keep_valid(parser_or_action, prev_val, value)


setattr(typehints, _NAME, _discard)
