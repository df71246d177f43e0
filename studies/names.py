"""Names, labels and results of trials for people."""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest tail of each dotted key that no other key ends in.

    ``init_args`` and ``class_path`` are left out, and a name does not begin with a list's index:
    ``model.init_args.optimizer.init_args.lr`` is ``lr``, or ``optimizer.lr`` beside another one.
    """
    parts = {
        key: [part for part in key.split(".") if part not in ("init_args", "class_path")]
        for key in keys
    }
    tails = {key: [".".join(p[-n:]) for n in range(1, len(p) + 1)] for key, p in parts.items()}
    count = Counter(tail for of_key in tails.values() for tail in of_key)
    whole = Counter(".".join(p) for p in parts.values())
    names = {}
    for key, of_key in tails.items():
        unique = [tail for tail in of_key if count[tail] == 1 and not tail[0].isdigit()]
        longest = of_key[-1] if of_key and whole[of_key[-1]] == 1 else key
        names[key] = unique[0] if unique else longest
    return names


def label(value: Any, length: int = 60) -> str:
    """A parameter's value for people: four digits, classes without their modules.

    Args:
        value: a scalar, or the JSON of something that is none.
        length: characters after which it is cut off.
    """
    if isinstance(value, str) and value[:1] in ("{", "[", '"', "n"):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if value is None or isinstance(value, bool):
        text = {None: "none", True: "true", False: "false"}[value]
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, dict) and isinstance(value.get("class_path"), str):
        arguments = (f"{k}={label(v)}" for k, v in (value.get("init_args") or {}).items())
        text = f"{label(value['class_path'])}({', '.join(arguments)})".removesuffix("()")
    elif isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
        if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", text):
            text = text.rpartition(".")[2]
    return text if len(text) <= length else text[: length - 1] + "…"


def trials_of(study: Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials in these states, in all unless any are given, in number order."""
    return study.get_trials(deepcopy=False, states=states or None)


def reached(trial: FrozenTrial) -> float | None:
    """The objective: a completed trial's value, another one's after its last epoch.

    None for a failed trial, and where there is no value yet.
    """
    if trial.state == TrialState.COMPLETE:
        return trial.value
    if trial.state == TrialState.FAIL or not trial.intermediate_values:
        return None
    value = trial.intermediate_values[max(trial.intermediate_values)]
    return None if math.isnan(value) else value


def failure(trial: FrozenTrial) -> str:
    """The reason for which a trial failed."""
    return str(trial.user_attrs.get("reason") or "no reason recorded")


def all_failed(what: str, reasons: Sequence[str | None]) -> str | None:
    """The sentence that everything failed, with the commonest reason; None where something did not.

    Args:
        what: the noun, e.g. ``trial``.
        reasons: one for each that has ended; None for one that did not fail.
    """
    failed = [reason for reason in reasons if reason is not None]
    if not failed or len(failed) < len(reasons):
        return None
    # The same failure happens at another step, or with another value.
    kinds = Counter(re.sub(r"\d+", "#", reason) for reason in failed)
    kind, count = kinds.most_common(1)[0]
    reason = next(r for r in failed if re.sub(r"\d+", "#", r) == kind)
    many = f"all {len(failed)} {what}s" if len(failed) > 1 else f"the only {what}"
    times = f" ({count} of them)" if count < len(failed) else ""
    return f"{many} failed; the commonest reason{times}: {reason}"


def metric_name(study: Study) -> str:
    return str(study.user_attrs.get("definition", {}).get("metric", "objective"))
