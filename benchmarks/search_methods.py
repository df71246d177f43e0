"""Results of each search method for the same budget, over several seeds.

    python -m benchmarks.search_methods --group rates --seeds 5

``rates``: the MLP's width and rate, nine trials each: grid, random, TPE, Gaussian process.
``pruning``: five parameters of the baseline CNN, 20 trials each of at most nine epochs: the same
random proposals without a pruner, with successive halving, with Hyperband.
``architectures``: networks for SearchedCNN: the controller and random words.

A seed is the sampler's and the trainings'. All studies run in this process, one after another.
Prints a Markdown table and writes it to ``results/search/methods_<group>.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import tempfile
from pathlib import Path
from typing import Any

import search
from benchmarks.recipes import ROOT, mean_spread, save, shown_command
from studies.search.search_study import Search

NINE = ["--n_trials=9"]
GROUPS = {
    "rates": {
        "grid": ("grid", []),
        "random": ("random", NINE),
        "TPE": ("bayesian", NINE),
        "Gaussian process": ("bayesian", ["--sampler=optuna.samplers.GPSampler", *NINE]),
    },
    "pruning": {
        "no pruning": ("successive_halving", ["--pruner=optuna.pruners.NopPruner"]),
        "successive halving": ("successive_halving", []),
        "Hyperband": ("hyperband", []),
    },
    "architectures": {
        "REINFORCE": ("architecture", []),
        "random": ("architecture", ["--sampler=optuna.samplers.RandomSampler"]),
    },
}


def run(config: str, options: list[str], seed: int) -> dict[str, Any]:
    """One study: the best value found, and what was spent on it."""
    with tempfile.TemporaryDirectory() as folder:
        args = [f"--config={ROOT / 'configs' / 'search' / config}.yaml", *options]
        args += [f"--sampler.init_args.seed={seed}", f"--seeds=[{seed}]"]
        args += [f"--runs_dir={folder}", "--name=study", "--confirmation_seeds=[]"]
        search.main(args)
        study, _ = Search("study", Path(folder, "study"), None).load()
        trials = study.trials
        return {
            "seed": seed,
            "best": study.best_value,
            "params": study.best_trial.user_attrs["values"],
            "trials": len(trials),
            "pruned": sum(trial.state.name == "PRUNED" for trial in trials),
            "failed": sum(trial.state.name == "FAIL" for trial in trials),
            "epochs": sum(trial.user_attrs.get("epochs", 0) for trial in trials),
            "seconds": sum(trial.user_attrs.get("seconds", 0.0) for trial in trials),
        }


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Mean ± standard deviation over the seeds, as Markdown."""
    lines = [
        "| method | best validation accuracy | epochs trained | best, each seed |",
        "|---|---|---|---|",
    ]
    for method, found in runs.items():
        best = [study["best"] for study in found]
        lines.append(
            f"| {method} | {mean_spread(best, '.4f')} "
            f"| {mean_spread([study['epochs'] for study in found], '.0f')} "
            f"| {', '.join(f'{value:.4f}' for value in best)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--group", choices=GROUPS, default="rates")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0…N-1")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "search")
    options, more = parser.parse_known_args()
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in GROUPS[options.group]}
    for seed in range(options.seeds):
        for method, (config, extra) in GROUPS[options.group].items():
            runs[method].append(run(config, [*extra, *more], seed))
    save(
        options.results / f"methods_{options.group}",
        shown_command("benchmarks.search_methods", None),
        f"n = {options.seeds} seeds",
        table(runs),
        methods=runs,
    )


if __name__ == "__main__":
    main()
