"""A configuration makes what a parameter asks for, and nothing else.

jsonargparse makes an object of any ``class_path`` inside a value of no type (``Any``, ``object``),
and imports its module even where it is told not to make it; a function that ``class_path`` names
for a callable is called, whatever it returns. Neither is wanted of a file that may be somebody
else's (https://github.com/mauvilsa/jsonargparse/pull/955). Here both are refused, and
:func:`guarded` asks further before anything is imported: which classes a checkpoint of somebody
else may name is for :mod:`foundation.allowed_classes` to say.

Importing this module replaces three private functions of jsonargparse, and has it refuse the
modules that its own list denies (``os``, ``subprocess``, ``pickle``, …) instead of warning.

Raises:
    ImportError: this version of jsonargparse has no such functions.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import jsonargparse
import jsonargparse._typehints as typehints

_PARAMETERS = {
    "adapt_classes_any": "val typehint serialize instantiate_classes sub_add_kwargs logger",
    "adapt_partial_callable_class": "callable_type subclass_spec",
    "import_object": "name check_path",
}
_original: dict[str, Any] = {name: getattr(typehints, name, None) for name in _PARAMETERS}
for _name, _parameters in _PARAMETERS.items():
    _found = _original[_name]
    if _found is None or [*inspect.signature(_found).parameters] != _parameters.split():
        raise ImportError(
            f"jsonargparse {jsonargparse.__version__} has no {_name}({_parameters}): install the "
            "version that constraints.txt names"
        )


class Guard(Protocol):
    """Refuses by raising :class:`RefusedClassError`."""

    def before(self, name: str) -> None:
        """Look at a dotted name before anything of it is imported."""

    def after(self, name: str, found: Any) -> None:
        """Look at what it turned out to be."""


class RefusedClassError(ImportError, ValueError):
    """A class path is refused; of both kinds, each of which jsonargparse reports as a mistake."""


_guard: ContextVar[Guard | None] = ContextVar("_guard", default=None)


@contextmanager
def guarded(guard: Guard) -> Iterator[None]:
    """Have every class path that is read meanwhile pass ``guard``."""
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


def _import_object(name: str, check_path: bool = True) -> Any:
    guard = _guard.get() if check_path else None
    if guard is not None:
        guard.before(name)
    found = _original["import_object"](name, check_path and guard is None)
    if guard is not None:
        guard.after(name, found)
    return found


def _adapt_classes_any(val: Any, typehint: Any, serialize: bool, *rest: Any, **kwargs: Any) -> Any:
    if not serialize and (name := _class_path_in(val)) is not None:
        raise ValueError(f"{name}: nothing is made inside a value of no type; leave it out")
    return _original["adapt_classes_any"](val, typehint, serialize, *rest, **kwargs)


def _class_path_in(value: Any) -> str | None:
    """The first class that something in the value is to be made of; None for none."""
    if typehints.is_subclass_spec(value):
        return str(value["class_path"])
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((name for part in parts if (name := _class_path_in(part)) is not None), None)


def _adapt_partial_callable_class(callable_type: Any, subclass_spec: Any) -> Any:
    spec, skipped = _original["adapt_partial_callable_class"](callable_type, subclass_spec)
    wanted = typehints.get_callable_return_type(callable_type)
    name = spec["class_path"]
    if wanted and "." not in name:
        name = typehints.resolve_class_path_by_name(wanted, name)
    made = _import_object(name)
    if not inspect.isclass(made):
        kinds = typehints.get_subclass_types(wanted) if wanted else None
        if not kinds or not typehints.function_returns_subclass(made, kinds, None):
            raise RefusedClassError(f"{name} is a function; expected a class")
    return spec, skipped


_REPLACEMENTS = (_adapt_classes_any, _adapt_partial_callable_class, _import_object)
for _replacement in _REPLACEMENTS:
    setattr(typehints, _replacement.__name__.removeprefix("_"), _replacement)
jsonargparse.set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])
