"""Cost of a trial of a search beyond its training.

    python -m benchmarks.trial_overhead --trials 12

Runs ``configs/search/random.yaml`` in one process. A trial's cost is the time from the end of the
trial before it to its own end: proposing, configuring, data, model, training, writing the run's
folder, recording. Its training is what lies between ``on_fit_start`` and ``on_fit_end``: data and
model are set up before that, and count as overhead.
Prints a Markdown table and writes it to ``results/benchmarks/trial_overhead.{md,json}``.
"""

import foundation  # noqa: F401  isort: skip  (before anything that imports torchvision)

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

import search
from benchmarks.recipes import ROOT, save, shown_command
from studies.search.search_study import Search


def measure(trials: int) -> list[dict[str, float]]:
    """Seconds of each trial but the first, which pays for what is done once per process."""
    with tempfile.TemporaryDirectory() as folder:
        config = ROOT / "configs" / "search" / "random.yaml"
        args = [f"--config={config}", f"--runs_dir={folder}", "--name=study"]
        search.main([*args, f"--n_trials={trials}", "--confirmation_seeds=[]"])
        study, _ = Search("study", Path(folder, "study"), None).load()
        rows = []
        for before, trial in pairwise(study.trials):
            assert before.datetime_complete
            assert trial.datetime_complete
            whole = (trial.datetime_complete - before.datetime_complete).total_seconds()
            run = Path(folder, "study", "trials", f"{trial.number:04d}", "summary.json")
            training = json.loads(run.read_text())["seconds"]
            rows.append({"whole": whole, "training": training, "overhead": whole - training})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    options = parser.parse_args()
    rows = measure(options.trials)
    lines = ["| seconds | median | lowest | highest |", "|---|---|---|---|"]
    for name in ("whole", "training", "overhead"):
        values = [row[name] for row in rows]
        middle = statistics.median(values)
        lines.append(f"| {name} | {middle:.3f} | {min(values):.3f} | {max(values):.3f} |")
    save(
        options.results / "trial_overhead",
        shown_command("benchmarks.trial_overhead", None),
        f"n = {len(rows)} trials",
        "\n".join(lines),
        trials=rows,
    )


if __name__ == "__main__":
    main()
