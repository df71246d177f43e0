"""Settings that every kind of study has."""

from pathlib import Path

from jsonargparse import ActionConfigFile, Namespace

from foundation.errors import UserError
from foundation.parser import Parser
from foundation.run_folder import check_name


def add_settings(parser: Parser, settings: type) -> None:
    """Add a study's YAML, its name, and the arguments of its settings' class."""
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="The study's YAML.")
    parser.add_argument(
        "--name", type=str | None, help="Of the study and its folder; the YAML's unless given."
    )
    parser.add_class_arguments(settings, None)


def study_name(settings: Namespace) -> str:
    """``--name``, or the YAML's.

    Raises:
        UserError: a name that leads out of the folder of all studies.
    """
    if settings.name is not None:
        check_name("--name", settings.name)
    stem = Path(str(settings.config[0])).stem if settings.config else "study"
    return settings.name or stem


def listed(files: list[str] | str) -> list[str]:
    """A single file may be given without a list around it."""
    return [files] if isinstance(files, str) else list(files)


def check_seeds(settings: Namespace, *names: str) -> None:
    """Refuse what seeds no random numbers, and the same seed twice.

    Raises:
        UserError: names the setting and its value.
    """
    for name in names:
        seeds = settings[name]
        if not all(0 <= seed < 2**32 for seed in seeds):
            raise UserError(f"{name} is {seeds}; expected whole numbers from 0 to {2**32 - 1}")
        if len(set(seeds)) < len(seeds):
            raise UserError(f"{name} is {seeds}; expected different ones, e.g. [0, 1, 2]")


def check_least(settings: Namespace, **least: float) -> None:
    """Refuse a setting that is given and too low.

    Raises:
        UserError: names the setting, its value and the least it may be.
    """
    for name, bound in least.items():
        value = settings[name]
        if value is not None and value < bound:
            raise UserError(f"{name} is {value}; expected at least {bound}")
