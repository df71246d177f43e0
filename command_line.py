"""What the command lines share: a parser that answers a mistake with one line."""

import re
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import Namespace
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

import class_defaults  # noqa: F401  (before anything is parsed)
from datamodules import ImageDataModule
from errors import UserError
from lightning_modules import ImageClassifier

# Lines of jsonargparse's messages that say nothing about the mistake itself.
_NOISE = re.compile(
    r"Does not validate against any|Subtypes: |Errors:$|Given value"
    r"|Expected a <class 'NoneType'>|not accessible or invalid|Unable to import module"
)


class Parser(LightningArgumentParser):
    """LightningCLI's parser; a mistake raises :class:`UserError` instead of printing the usage."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # the parser of a part: the whole one will explain
            super().error(message, ex)
        text = explain(message)
        raise UserError(text + (_suggestion(text) or "; --help lists the options")) from ex


def explain(message: str) -> str:
    """Make one line of one of jsonargparse's messages."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    parts = [line.rstrip(":") for line in lines if line and not _NOISE.search(line)]
    text = ": ".join(dict.fromkeys(parts))  # each once, in their order
    text = re.sub(r'Parser key "([^"]+)"', r"\1", text)
    text = re.sub(r"Problem with given class_path '([^']+)'", r"\1", text)
    text = re.sub(r"Expected a dot import path string: (\w+)", r"there is no class \1", text)
    text = re.sub(r"Type typing.Callable\S* \S+ expects a function or a callable class: ", "", text)
    text = re.sub(r"\. Got value: Namespace\(.*", "", text)
    given = re.search(r"Given value: (?:NestedArg\(key='[^']*', val='?)?([^'\s({]+)", message)
    if given and given[1] not in text and given[1] != "Namespace":
        text += f"; got {given[1]}"
    return text


def _suggestion(text: str) -> str:
    """What there is instead of a class or an option that there is not."""
    if match := re.fullmatch(r"(model|data): there is no class \w+", text):
        base: type = ImageClassifier if match[1] == "model" else ImageDataModule
        return f"; choose from {', '.join(sorted(_subclasses(base)))}"
    if match := re.search(r"([\w.]+)\.(\w+): Option '([\w.]+)' is not accepted", text):
        module, name, option = match.groups()
        owner = getattr(import_module(module), name)
        parser: Any = ActionTypeHint.get_class_parser(owner, skip_args=set())
        known = [key for key in Namespace(parser.get_defaults()).keys(nested=False)]
        close = get_close_matches(option, known, n=1, cutoff=0.8)
        return f"; did you mean {close[0]}?" if close else f"; {name} has {', '.join(known)}"
    return ""


def _subclasses(base: type) -> set[str]:
    found: set[str] = set()
    children: list[type] = base.__subclasses__()
    for child in children:
        found |= _subclasses(child)
        if not child.__name__.startswith("_"):
            found.add(child.__name__)
    return found
