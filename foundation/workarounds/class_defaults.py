"""When an overlay changes a class, the old class's *defaults* must not outlive it.

jsonargparse keeps the arguments of the previous class that the new class has too. That is wanted
for what a user chose (``--model OptimizedCNN`` keeps the optimizer), and wrong for what nobody
chose: after Adam, AdamW would run with Adam's default weight decay of 0 instead of its own 0.01,
and after BaselineCNN, OptimizedCNN without its batch norm
(https://github.com/mauvilsa/jsonargparse/issues/460). Importing this module mends it.

A value that was written out but equals the old class's default counts as nobody's choice: set it
again behind the change of class.
"""

from typing import Any

import jsonargparse._typehints as typehints
from jsonargparse import Namespace

_keep_valid = typehints.discard_init_args_on_class_path_change


def _discard_old_defaults(parser_or_action: Any, previous: Any, value: Any) -> None:
    old = previous.get("init_args") if previous else None
    if isinstance(old, Namespace) and previous["class_path"] != value["class_path"]:
        options = getattr(parser_or_action, "sub_add_kwargs", {})
        parser = typehints.ActionTypeHint.get_class_parser(previous["class_path"], options)
        for key, default in parser.get_defaults().items(branches=True, nested=False):
            if key in old and old[key] == default:
                del old[key]
    _keep_valid(parser_or_action, previous, value)


typehints.discard_init_args_on_class_path_change = _discard_old_defaults
