"""The parser of all command lines, which answers a mistake with one line."""

import inspect
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn, get_args

from jsonargparse import Namespace
from jsonargparse._actions import _ActionPrintConfig
from jsonargparse._common import parser_context
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from foundation.checkout import found
from foundation.errors import UserError
from foundation.workarounds import bounded_yaml, class_paths  # noqa: F401  (they change jsonargparse)
from foundation.workarounds.class_defaults import adding_defaults

# Lines of jsonargparse's messages that say nothing about the mistake itself.
_NOISE = re.compile(
    r"Does not validate against any|Subtypes: |Errors:$|Given value"
    r"|Expected a <class 'NoneType'>|not accessible or invalid|Unable to import module"
)


class Parser(LightningArgumentParser):
    """LightningCLI's parser; a mistake raises :class:`UserError` instead of printing the usage.

    What a file or an option wrote stays, unless a later one writes it or names a class that has no
    such argument; what nobody wrote follows the class.

    Attributes:
        written: what the last ``parse_args`` found written, without any defaults.
        commands: the subcommands, for one more.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        self.written = Namespace()

    @override
    def parse_args(  # type: ignore[override]
        self,
        args: Any = None,
        namespace: Namespace | None = None,
        env: bool | None = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        if not defaults:
            return super().parse_args(args, namespace, env, defaults, **kwargs)
        args = _located(sys.argv[1:] if args is None else args)
        with _ActionPrintConfig.skip_print_config():  # not before it is complete
            self.written = super().parse_args(
                args, namespace, env, defaults=False, **{**kwargs, "_skip_validation": True}
            )
        for name, value in self.written.items():
            if isinstance(value, str) and "\0" in value:
                shown = value.replace("\0", "\\0")
                raise UserError(f"{name} is {shown}: \\0 ends every name; leave it out")
        return self.parse_object(self.written)

    @override
    def parse_object(
        self,
        obj: Any,
        namespace: Namespace | None = None,
        env: bool | None = None,
        defaults: bool = True,
        **kwargs: Any,
    ) -> Namespace:
        with adding_defaults() if defaults else nullcontext():
            return super().parse_object(obj, namespace, env, defaults, **kwargs)

    @override
    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        self.commands = super().add_subcommands(*args, **kwargs)
        return self.commands

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # the parser of a part: the whole one will explain
            super().error(message, ex)
        text = explain(message)
        raise UserError(text + (self._suggestion(text) or "; --help lists the options")) from ex

    @override
    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Namespace:
        try:
            return super().parse_path(cfg_path, *args, **kwargs)
        except UserError as error:
            raise UserError(f"{cfg_path}: {error}") from error

    def _suggestion(self, text: str) -> str:
        """Name what exists in place of a class or an option that does not."""
        if match := re.match(r"(\w+): (there is no class|[\w.]+: (No module|module '))", text):
            hints = [getattr(a, "_typehint", None) for a in self._actions if a.dest == match[1]]
            bases = [base for hint in hints for base in get_args(hint) or (hint,)]
            return f"; choose from {', '.join(sorted(set().union(*map(_subclasses, bases))))}"
        if match := re.search(r"([\w.]+)\.(\w+): Option '([\w.]+)' is not accepted", text):
            module, name, option = match.groups()
            owner = getattr(import_module(module), name)
            with parser_context(parent_parser=self):
                parser: Any = ActionTypeHint.get_class_parser(owner, skip_args=set())
            known = [key for key in Namespace(parser.get_defaults()).keys(nested=False)]
            close = get_close_matches(option, known, n=1, cutoff=0.8)
            return f"; did you mean {close[0]}?" if close else f"; {name} has {', '.join(known)}"
        pattern = r"unrecognized arguments: (--[\w.]+)|Option '([\w.]+)' is not accepted"
        if match := re.match(pattern, text):
            parts = [a.choices for a in self._actions if isinstance(a.choices, dict)]
            parsers = [self, *(parser for choices in parts for parser in choices.values())]
            options = [o for parser in parsers for a in parser._actions for o in a.option_strings]
            known = options if match[1] else [option.removeprefix("--") for option in options]
            close = get_close_matches(match[1] or match[2], known, n=1, cutoff=0.8)
            return f"; did you mean {close[0]}?" if close else ""
        return ""


def explain(message: str) -> str:
    """Make one line of one of jsonargparse's messages."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    parts = [line.rstrip(":") for line in lines if line and not _NOISE.search(line)]
    text = ": ".join(dict.fromkeys(parts))  # each once, in their order
    text = re.sub(r'Parser key "([^"]+)"', r"\1", text)
    text = re.sub(r"Problem with given class_path '([^']+)'", r"\1", text)
    text = re.sub(r"Expected a dot import path string: (\w+)", r"there is no class \1", text)
    text = re.sub(r"Type typing\.Callable.*? expects a function or a callable class: ", "", text)
    text = re.sub(r"\. Got value: Namespace\(.*", "", text)
    text = re.sub(
        r"Subcommand '\w+' does not accept option (\S+)", r"Option \1 is not accepted", text
    )
    text = text.replace('in "<unicode string>", ', "")
    text = re.sub(r" Add the import path to import_path_allowlist [^:]*", "", text)
    text = re.sub(
        r"Unexpected config(: )?(.*)",
        lambda match: f"expected keys and values, as in `seed: 3`; got {match[2] or 'nothing'}",
        text,
    )
    given = re.search(r"Given value: (?:NestedArg\(key='[^']*', val='?)?([^'\s({]+)", message)
    if given and given[1] not in text and given[1] != "Namespace":
        text += f"; got {given[1]}"
    return text


def _located(args: Sequence[str]) -> list[str]:
    """Look for configurations that are not in the current folder in the checkout."""
    found_args: list[str] = []
    for before, arg in zip(["", *args], args, strict=False):
        option, equals, value = (
            arg.rpartition("=") if arg.startswith("--config=") else ("", "", arg)
        )
        is_config = (option == "--config" or before in ("--config", "-c")) and "\n" not in value
        if is_config and value.endswith((".yaml", ".yml", ".json")):
            arg = f"{option}{equals}{found(value)}"
        found_args.append(arg)
    return found_args


def _subclasses(base: type) -> set[str]:
    found: set[str] = set()
    children: list[type] = base.__subclasses__()
    for child in children:
        found |= _subclasses(child)
        if not child.__name__.startswith("_") and not inspect.isabstract(child):
            found.add(child.__name__)
    return found
