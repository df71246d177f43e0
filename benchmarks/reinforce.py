"""The REINFORCE controller against random search, on a reward whose optimum is known.

    python -m benchmarks.reinforce --seeds 20 --trials 300

No network is trained: the reward of an architecture is how many of :data:`TARGET`'s words it has.
Each of three blocks is worth 0.27, of which channels 0.07 and kernel, norm, activation and pooling
0.05 each, and the hidden layer 0.09. One interaction is worth 0.10: the second block's channels and
the hidden layer's units are both right. There is no noise; the target alone reaches 1.0. The space
is the default :class:`studies.search.architecture.Architecture`: 451,776 networks of one to three
blocks.

Both samplers have the same number of trials, paired by seed. Prints a Markdown table and writes it,
with every seed's measures, to ``results/search/reinforce.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler

from benchmarks.recipes import ROOT, mean_spread, save, shown_command
from studies.compare.paired_statistics import t_interval
from studies.search import ReinforceSampler
from studies.search.architecture import Architecture

TARGET = "conv16k5-bn-gelu|conv64k3-relu-pool|conv32k3-bn-relu-pool|fc128"
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "REINFORCE": ReinforceSampler,
    "random": RandomSampler,
}


def features(architecture: str) -> dict[tuple[int | str, str], str]:
    """The properties that the reward compares: of every block, and the hidden layer's units."""
    stages = architecture.split("|")
    found: dict[tuple[int | str, str], str] = {("fc", "units"): ""}
    for block, stage in enumerate(stages):
        layer, *words = stage.split("-")
        if layer.startswith("fc"):
            found["fc", "units"] = layer
            continue
        found[block, "channels"], found[block, "kernel"] = layer.split("k")
        for name in ("bn", "relu", "pool"):  # relu or gelu
            found[block, name] = str(name in words)
    return found


def reward(architecture: str) -> float:
    """At most 1.0, which only :data:`TARGET` reaches."""
    target, found = features(TARGET), features(architecture)
    right = {key for key, value in target.items() if found.get(key) == value}
    weights = {"channels": 0.07, "units": 0.09}
    score = sum(weights.get(name, 0.05) for _, name in right)
    return round(score + 0.10 * ({(1, "channels"), ("fc", "units")} <= right), 10)


def rewards(sampler: BaseSampler, trials: int) -> list[float]:
    """Of every trial of a search."""
    study = optuna.create_study(sampler=sampler, direction="maximize")
    space = Architecture()
    study.optimize(lambda trial: reward(space.suggest(trial, "net")), n_trials=trials)
    return [trial.values[0] for trial in study.trials]


def measures(found: list[float]) -> dict[str, float]:
    return {
        "best reward": max(found),
        "mean reward of the last 50 trials": statistics.fmean(found[-50:]),
    }


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Mean ± standard deviation of both and the paired difference, as Markdown."""
    lines = [
        f"| n = {len(results['random'])} | REINFORCE | random | difference, 95 % t interval |",
        "|---|---|---|---|",
    ]
    for name in results["random"][0]:
        each = {sampler: [run[name] for run in runs] for sampler, runs in results.items()}
        means = [mean_spread(values, ".3f") for values in (each["REINFORCE"], each["random"])]
        differences = [a - b for a, b in zip(each["REINFORCE"], each["random"], strict=True)]
        low, high = t_interval(differences)
        lines.append(
            f"| {name} | {' | '.join(means)} "
            f"| {statistics.fmean(differences):+.3f} ({low:+.3f} to {high:+.3f}) |"
        )
    found = [sum(run["best reward"] == 1.0 for run in runs) for runs in results.values()]
    lines.append(f"| seeds that found the optimum | {' | '.join(map(str, found))} | |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=20, help="seeds 0…N-1, at least 2")
    parser.add_argument("--trials", type=int, default=300, help="of each search")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "search")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds is {options.seeds}; a standard deviation needs at least 2")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in SAMPLERS}
    seconds = dict.fromkeys(SAMPLERS, 0.0)
    for seed in range(options.seeds):
        for name, sampler in SAMPLERS.items():
            began = time.perf_counter()
            measured[name].append(measures(rewards(sampler(seed), options.trials)))
            seconds[name] += time.perf_counter() - began
    milliseconds = {
        name: 1e3 * total / options.seeds / options.trials for name, total in seconds.items()
    }
    save(
        options.results / "reinforce",
        shown_command("benchmarks.reinforce", arguments),
        f"1 thread, optuna {optuna.__version__}; n = {options.seeds} seeds of {options.trials} "
        f"trials for each sampler, mean ± standard deviation, paired by seed. The optimum is 1.0. "
        f"A trial took {milliseconds['REINFORCE']:.1f} ms by REINFORCE and "
        f"{milliseconds['random']:.1f} ms at random.",
        table(measured),
        versions={"torch": torch.__version__, "optuna": optuna.__version__},
        trials=options.trials,
        target=TARGET,
        milliseconds_per_trial=milliseconds,
        measures=measured,
    )


if __name__ == "__main__":
    main()
