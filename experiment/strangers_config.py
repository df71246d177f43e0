"""The part that counts of the configuration in a checkpoint that somebody else wrote.

Its ``model`` and ``data``, of classes that :mod:`foundation.allowed_classes` lets pass, without
paths; for a run that goes on, plain values and this project's callbacks too. What it leaves out is
the command line's, or has its default.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_only

from foundation.allowed_classes import AllowedClasses
from foundation.errors import UserError
from foundation.parser import Parser
from foundation.run_folder import CONFIG_KEY, SIGNATURE_KEY
from foundation.signature import is_own
from foundation.workarounds.class_paths import guarded
from foundation.yaml_text import load_yaml

# Plain values of a run that goes on; none is a path.
_RUN = {
    "": ("seed_everything", "test_best", "float32_matmul_precision"),
    "trainer": (
        *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time"),
        *("precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches"),
        *("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"),
        *("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps"),
        *("log_every_n_steps", "deterministic", "benchmark", "sync_batchnorm", "detect_anomaly"),
    ),
    "early_stopping": (
        *("monitor", "min_delta", "patience", "mode", "strict", "check_finite", "verbose"),
        *("stopping_threshold", "divergence_threshold", "check_on_train_epoch_end"),
    ),
    "checkpoint": (
        *("monitor", "mode", "save_top_k", "save_last", "save_weights_only", "verbose"),
        *("every_n_train_steps", "every_n_epochs", "save_on_train_epoch_end"),
    ),
    "lr_monitor": ("logging_interval", "log_momentum", "log_weight_decay"),
}
# Of the machine, not of the run: workers, e.g., are processes.
_MACHINE = ("num_workers", "pin_memory", "on_device")
_PATH_NAME = re.compile(
    r"(.*_)?(root|dir|dirs|directory|path|paths|file|files|folder|folders|filename|dirpath|url)"
)
_PATH = re.compile(
    r"[/\\~].*|[A-Za-z]:[/\\].*|.*://.*|(.*[/\\])?\.\.([/\\].*)?|.*\.(ya?ml|json)", re.DOTALL
)
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+")


def option(args: Sequence[str], name: str) -> str | None:
    """The value of an option of a command line, before it is parsed; None where it is not there."""
    for i, arg in enumerate(args):
        if arg.startswith(f"{name}="):
            return arg.split("=", 1)[1]
        if arg == name and i + 1 < len(args):
            return args[i + 1]
    return None


def configuration(
    checkpoint: dict[str, Any], path: str, args: Sequence[str], parser: Parser
) -> str:
    """The part that counts of a checkpoint's configuration, YAML; of the user's own all.

    Args:
        checkpoint: its content.
        path: as typed.
        args: the command line: subcommand and options.
        parser: of that command line.

    Raises:
        UserError: it has none, or names a class that is not allowed.
    """
    if CONFIG_KEY not in checkpoint:
        raise UserError(
            f"--ckpt_path {path}: holds no configuration; give the one it was trained with: "
            "--config …"
        )
    text: str = checkpoint[CONFIG_KEY]
    if is_own(text, checkpoint.get(SIGNATURE_KEY)):
        return text
    data, trust = option(args, "--data"), option(args, "--trust") or ""
    try:
        text = strangers_config(text, args[0], args[1:], parser, data, trust)
    except UserError as error:
        raise UserError(f"--ckpt_path {path}: {error}") from error
    _say_what_counts(path, args[0])
    return text


def strangers_config(
    text: str, command: str, options: Sequence[str], parser: Parser, data: str | None, trust: str
) -> str:
    """The configuration that counts, YAML.

    Args:
        text: the checkpoint's, YAML.
        command: fit, validate, test or predict.
        options: of the command line, whose classes are the user's choice.
        parser: of the command line.
        data: ``--data``, in whose place the checkpoint's would be.
        trust: ``--trust``: names of packages, with commas between them.

    Raises:
        UserError: it is broken, or names a class that is not allowed; says what to do.
    """
    counts = yaml.safe_dump(_what_counts(_read(text), command, data), sort_keys=False)
    packages = [name.strip() for name in trust.split(",") if name.strip()]
    typed = (option.partition("=")[2] if option[:2] == "--" else option for option in options)
    classes = AllowedClasses(packages, (name for value in typed for name in _DOTTED.findall(value)))
    try:
        with guarded(classes):
            # Nothing is made yet; but every class that would be is looked up.
            parser.parse_args(
                [command, f"--config={counts}"], defaults=False, _skip_validation=True
            )
    except UserError as error:
        if classes.refused is None:
            raise UserError(f"its configuration: {error}") from error
    if classes.refused is not None:
        package = classes.refused.partition(".")[0]
        raise UserError(
            f"its configuration names {classes.refused}, which is not among the classes that "
            "somebody else's checkpoint may bring; give a --config of your own, or, if you trust "
            f"that package, --trust {package}"
        )
    return counts


def _read(text: str) -> dict[str, Any]:
    try:
        config = load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"its configuration is no YAML to use ({reason}); give --config") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError("its configuration names no model; give --config")
    return config


def _what_counts(config: dict[str, Any], command: str, data: str | None) -> dict[str, Any]:
    counts = {"model": _without_paths(config["model"])}
    given = config.get("data")
    if isinstance(given, dict) and (data is None or _same_class(data, given.get("class_path"))):
        counts["data"] = _without_paths(given)
        if isinstance(arguments := counts["data"].get("init_args"), dict):
            for name in _MACHINE:
                arguments.pop(name, None)
    if command != "fit":
        return counts
    for section, names in _RUN.items():
        values = config.get(section) if section else config
        if isinstance(values, dict):
            kept = {name: values[name] for name in names if _is_plain(values.get(name))}
            counts |= {section: kept} if section and kept else kept
    trainer = config.get("trainer")
    if isinstance(trainer, dict) and (callbacks := [*_own_callbacks(trainer.get("callbacks"))]):
        counts.setdefault("trainer", {})["callbacks"] = callbacks
    return counts


def _own_callbacks(given: Any) -> Iterable[dict[str, Any]]:
    """This project's, with the arguments that are numbers."""
    for spec in given if isinstance(given, list) else []:
        name = spec.get("class_path") if isinstance(spec, dict) else None
        if isinstance(name, str) and name.startswith("callbacks."):
            arguments = spec.get("init_args")
            kept = {
                key: value
                for key, value in (arguments.items() if isinstance(arguments, dict) else ())
                if value is None or isinstance(value, int | float)
            }
            yield {"class_path": name, "init_args": kept}


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _same_class(one: str, other: Any) -> bool:
    return isinstance(other, str) and one.rpartition(".")[2] == other.rpartition(".")[2]


def _without_paths(value: Any) -> Any:
    """Leave out what is a path, by its argument's name or by itself."""
    if isinstance(value, dict):
        return {
            key: _without_paths(child)
            for key, child in value.items()
            if not _is_path(child) and not (_is_plain(child) and _names_path(str(key)))
        }
    if isinstance(value, list):
        return [_without_paths(child) for child in value if not _is_path(child)]
    return value


def _names_path(name: str) -> bool:
    return name != "class_path" and _PATH_NAME.fullmatch(name) is not None


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and _PATH.fullmatch(value) is not None


@rank_zero_only
def _say_what_counts(path: str, command: str) -> None:
    what = "model, data and plain values" if command == "fit" else "model and data"
    print(
        f"train.py: note: {path} was not written by you on this machine: of its configuration only "
        f"{what} count, without paths (docs/security.md)",
        file=sys.stderr,
    )
