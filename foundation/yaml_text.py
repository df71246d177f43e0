"""YAML within bounds: a short text can stand for more values than a machine has memory.

Aliases repeat what an anchor names, and aliases of aliases multiply: ten lines of ten each are ten
thousand million values as soon as something walks through them. So they are counted first.
"""

from typing import Any

import yaml
from yaml import events

_NODES = 100_000  # a complete configuration of a run has some 300
_DEPTH = 100  # of nested lists and mappings; the parser calls itself once for each
_SHORT = 100  # characters that without an alias can be neither too many nor too deep
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnboundedYAMLError(yaml.YAMLError):
    """The text stands for too many values, or they are nested too deeply."""


def check_bounds(text: str) -> None:
    """Count what a YAML text stands for, before anything is made of it.

    Raises:
        UnboundedYAMLError: more than 100,000 values, more than 100 levels, or a value that
            contains itself.
        yaml.YAMLError: the text is no YAML.
    """
    if "*" not in text and len(text) < _SHORT:
        return
    sizes: dict[str, int] = {}  # values below an anchor
    above: list[tuple[str | None, int]] = []  # open lists and mappings: anchor, values before it
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, events.CollectionEndEvent):
            anchor, before = above.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, events.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in above):
                raise UnboundedYAMLError(f"{event.anchor} contains itself")
            count += sizes.get(str(event.anchor), 0)
        elif isinstance(event, events.NodeEvent):
            count += 1
            if isinstance(event, events.CollectionStartEvent):
                above.append((event.anchor, count - 1))
            elif event.anchor:
                sizes[event.anchor] = 1
        if count > _NODES:
            raise UnboundedYAMLError(f"stands for more than {_NODES:,} values")
        if len(above) > _DEPTH:
            raise UnboundedYAMLError(f"nested more than {_DEPTH} levels deep")


def load_yaml(text: str) -> Any:
    """``yaml.safe_load``, within bounds.

    Raises:
        yaml.YAMLError: the text is no YAML, or one out of bounds.
        ValueError: a number or a date is none.
    """
    check_bounds(text)
    return yaml.safe_load(text)
