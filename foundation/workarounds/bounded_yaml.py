"""jsonargparse reads YAML within bounds.

It reads the text of configurations, and of single values, with a loader of its own that has none
(https://github.com/yaml/pyyaml/issues/235). ``set_loader`` would replace it for the one and not
for the other.

Importing this module replaces one private variable of jsonargparse.

Raises:
    ImportError: this version of jsonargparse has no such variable.
"""

from typing import Any

import jsonargparse
import jsonargparse._loaders_dumpers as loaders

from foundation.yaml_text import check_bounds

_NAME = "yaml_default_loader"
_make: Any = getattr(loaders, f"get_{_NAME}", None)
if _make is None or not hasattr(loaders, _NAME):
    raise ImportError(
        f"jsonargparse {jsonargparse.__version__} has no {_NAME}: install the version that "
        "constraints.txt names"
    )
_Loader: Any = _make()


class BoundedLoader(_Loader):
    """jsonargparse's loader, after a look at the size of what the text stands for."""

    def __init__(self, stream: Any) -> None:
        if isinstance(stream, str):
            check_bounds(stream)
        super().__init__(stream)


setattr(loaders, _NAME, BoundedLoader)
