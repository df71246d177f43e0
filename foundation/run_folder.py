"""A run is a folder: which one a checkpoint belongs to, and what is in it.

``runs/<experiment>/version_<N>/`` holds ``config.yaml``, ``checkpoints/best.ckpt`` and
``last.ckpt``, TensorBoard events, ``metrics.csv`` and ``summary.json``.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from foundation.checkout import ROOT
from foundation.errors import UserError

CONFIG_KEY = "config"  # in a checkpoint: the YAML that made it
SIGNATURE_KEY = "config_signature"  # in a checkpoint: of that YAML, see foundation.signature


def run_folder(checkpoint: Path) -> Path | None:
    """The run that ``checkpoint`` lies in; None where it lies alone."""
    run = checkpoint.resolve().parent.parent
    inside = checkpoint.resolve().parent.name == "checkpoints" and (run / "config.yaml").is_file()
    return run if inside else None


def newest_checkpoint(runs_dir: Path, experiment: str | None, name: str) -> Path:
    """``<name>.ckpt`` (best or last) of the newest run of an experiment, or of all (None).

    The newest is the one that was begun or resumed last.

    Raises:
        UserError: there is no run, or the newest has no such checkpoint; names the others.
    """
    folder = runs_dir / experiment if experiment else runs_dir
    runs = list(folder.glob("version_*/" if experiment else "**/version_*/"))
    if not runs:
        raise UserError(f"--ckpt_path {name}: there is no run under {folder}; fit first")

    def begun(run: Path) -> float:
        config = run / "config.yaml"
        return (config if config.exists() else run).stat().st_mtime

    runs.sort(key=begun, reverse=True)
    found = [path for run in runs if (path := run / "checkpoints" / f"{name}.ckpt").exists()]
    if found[:1] and found[0].is_relative_to(runs[0]):
        return found[0]
    others = ", ".join(map(as_typed, found[:3])) or "none has one: fit first"
    raise UserError(
        f"--ckpt_path {name}: the newest run, {as_typed(runs[0])}, has no {name}.ckpt; name one: "
        f"{others}"
    )


def check_name(option: str, name: str) -> None:
    """Refuse a name that would lead out of the folder it belongs into.

    Args:
        option: that gave it, for the message.
        name: of a run's or a study's folder, below that of all of them; may contain ``/``.

    Raises:
        UserError: the name is absolute, empty, or has ``..`` or a control character in it.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
    if outside or not path.parts or any(ord(character) < 32 for character in name):
        raise UserError(
            f"{option} {name!r}: expected a name, or names with / between them, without .. and "
            "not beginning at the root"
        )


def experiment_name(configs: Sequence[Path]) -> str:
    """``tutorial/baseline_cnn+dropout`` of configuration files; empty where there are none."""
    names: list[str] = []
    for config in configs:
        path = config.resolve().with_suffix("")
        parts = path.parts
        above = [i for i, part in enumerate(parts) if part == "configs"]
        inside = parts[above[-1] + 1 :] if above else parts[-1:]
        names.append("/".join(inside) if not names else path.name)
    return "+".join(names)


def program(name: str) -> str:
    """``python train.py``, as one would type it here.

    Args:
        name: of the file in the checkout.
    """
    return f"python {shlex.quote(as_typed(ROOT / name))}"


def as_typed(path: Path) -> str:
    """The path as one would type it here."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
