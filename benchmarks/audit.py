"""Recompute every verdict, interval and quoted number from the runs.

    python -m benchmarks.audit

A second, plain implementation of what ``studies/compare`` does, from its description, with numpy
and scipy alone: it imports nothing of it. One line per difference, exit status 1 for any.
"""

import argparse
import base64
import csv
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import special, stats

ROOT = Path(__file__).resolve().parent.parent
DIGITS = 1e-6  # relative

# Older results that name no clean commit; they go when they are measured again.
UNNAMED = (
    "results/benchmarks/commands.json",
    "results/benchmarks/criss_cross_attention.json",
    "results/benchmarks/ddp.json",
    "results/benchmarks/malloc.json",
    "results/benchmarks/precision.json",
    "results/benchmarks/precision_emulated.json",
    "results/benchmarks/precision_mlp.json",
    "results/benchmarks/precision_mlp_emulated.json",
    "results/benchmarks/scaling.json",
    "results/benchmarks/step.json",
    "results/benchmarks/throughput_cnn.json",
    "results/benchmarks/throughput_mlp.json",
    "results/benchmarks/time_to_accuracy.json",
    "results/benchmarks/trial_overhead.json",
    "results/diagnosis/diagnosis.json",
    "results/recipes/baseline_cnn.json",
    "results/recipes/mnist_accurate.json",
    "results/recipes/mnist_optimized_cnn.json",
    "results/search/methods_pruning.json",
    "results/search/methods_rates.json",
    "results/search/reinforce.json",
)

Values = dict[tuple[str, str], dict[int, float]]  # by group and variant, and seed


class Audit:
    """What was checked, and what differs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checked = 0
        self.faults: list[str] = []

    def same(self, where: str, written: Any, computed: Any) -> None:
        """Compare a written value with a recomputed one: numbers closely, words exactly."""
        self.checked += 1
        if isinstance(computed, float) and written not in ("", None):
            if math.isclose(float(written), computed, rel_tol=DIGITS, abs_tol=1e-12):
                return
        elif str("" if written is None else written) == str("" if computed is None else computed):
            return
        self.faults.append(f"{where}: {written!r} is written, {computed!r} was recomputed")

    def holds(self, where: str, told: str, *, true: bool) -> None:
        self.checked += 1
        if not true:
            self.faults.append(f"{where}: {told}")


# The statistics, once more.


def table_of(runs: Sequence[Mapping[str, str]], metric: str) -> Values:
    values: Values = defaultdict(dict)
    for run in runs:
        if not run["reason"] and run.get(metric) and math.isfinite(float(run[metric])):
            values[run["group"], run["variant"]][int(run["seed"])] = float(run[metric])
    return values


def right_of(text: str) -> np.ndarray:
    count, _, bits = text.partition(":")
    packed = np.frombuffer(zlib.decompress(base64.b64decode(bits)), np.uint8)
    return np.unpackbits(packed)[: int(count)].astype(float)


def alike(
    one: Sequence[Mapping[str, str]], other: Sequence[Mapping[str, str]], metric: str
) -> bool:
    """Whether two variants' runs have the same numbers with every seed that both have."""
    names = ("test/loss", "val/loss", "test/accuracy", "val/accuracy")

    def of(runs: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
        return {
            r["seed"]: [r.get(name) or "" for name in names]
            for r in runs
            if not r["reason"] and r.get(metric)
        }

    ours, theirs = of(one), of(other)
    shared = sorted(ours.keys() & theirs.keys())
    told = any(ours[s][0] or ours[s][1] for s in shared) or len(shared) > 1
    return bool(shared) and told and all(ours[s] == theirs[s] for s in shared)


def smyth(s2: np.ndarray, d: np.ndarray) -> tuple[float, float]:
    """Prior degrees of freedom and variance, by the moments of log variances."""
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    target = e.var(ddof=1) - special.polygamma(1, d / 2).mean()
    if target <= 0:
        return math.inf, float(np.average(s2, weights=d))
    low, high = 1e-8, 1e8  # the trigamma function falls: halve the bracket
    for _ in range(400):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if special.polygamma(1, middle) > target else (low, middle)
    half = math.sqrt(low * high)
    return 2 * half, float(np.exp(e.mean() + special.digamma(half) - math.log(half)))


def worth(rows: Sequence[np.ndarray]) -> float:
    """How many independent rows they are worth: (tr C)² / tr C², with unbiased squares."""
    centered = [row - np.nanmean(row) for row in rows]

    def product(i: int, j: int) -> tuple[float, int]:
        terms = centered[i] * centered[j]
        d = int(np.sum(~np.isnan(terms))) - 1
        return float(np.nansum(terms)) / max(d, 1 if d > 1 else 2), d

    own = [product(i, i)[0] for i in range(len(rows))]
    squares = 0.0
    for i, j in itertools.product(range(len(rows)), repeat=2):
        cross, d = product(i, j)
        if d > 1:
            squares += (cross**2 - own[i] * own[j] / d) * d**2 / ((d - 1) * (d + 2))
        else:
            squares += own[i] * own[j]
    total = sum(own) ** 2
    return total / min(max(squares, total / len(rows)), total)


def judge(
    values: Values,
    pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]],
    families: Sequence[str],
    margin: float,
    right: Mapping[tuple[str, str], Mapping[int, np.ndarray]],
) -> list[dict[str, Any]]:
    """Each difference as a record of results.csv."""
    records: list[dict[str, Any]] = [{} for _ in pairs]
    for group in {one[0] for one, _ in pairs}:
        places = [i for i, (one, _) in enumerate(pairs) if one[0] == group]
        seeds = sorted({s for i in places for key in pairs[i] for s in values[key]})
        both = {i: [s for s in seeds if all(s in values[k] for k in pairs[i])] for i in places}
        more = {i: [s for s in values[pairs[i][1]] if s not in both[i]] for i in places}
        cross = square = 0.0
        for i in places:
            ours, theirs = (np.array([values[k][s] for s in both[i]]) for k in pairs[i])
            cross += float(((ours - ours.mean()) * (theirs - theirs.mean())).sum())
            square += float(((theirs - theirs.mean()) ** 2).sum())
        slope = min(max(cross / square, 0.0), 1.0) if square else 1.0
        rows, weights = [], []
        for i in places:
            n, m = len(both[i]), len(more[i]) if len(more[i]) > 1 else 0
            w = (n + slope * m) / (n + m) if m else 1.0
            one, other = (values[k] for k in pairs[i])
            rows.append(
                np.array([one[s] - w * other[s] if s in both[i] else np.nan for s in seeds])
            )
            weights.append(w)
        sizes: Any = np.array([np.sum(~np.isnan(row)) for row in rows])
        s2: Any = np.array(
            [np.nanvar(row, ddof=1) if k > 1 else 0.0 for row, k in zip(rows, sizes, strict=True)]
        )
        d: Any = sizes - 1.0
        use = s2 > 1e-18
        if use.sum() >= 3:
            d0, s0 = smyth(s2[use], d[use])
            share = 1.0 if math.isinf(d0) else d0 / (d0 + d[use])
            times = min(worth([row for row, u in zip(rows, use, strict=True) if u]), 3.0)
            own = d[use]
            s2[use] = np.maximum(share * s0 + (1 - share) * s2[use], s2[use])
            d[use] = np.minimum(d0 + own, times * own)
        for i, row, w, k, variance, df in zip(places, rows, weights, sizes, s2, d, strict=True):
            one, other = pairs[i]
            mean, parts = float(np.nanmean(row)), [(variance / k, df)]
            if w < 1 or (len(more[i]) > 1 and w == 1):
                rest = np.array([values[other][s] for s in more[i]])
                if len(rest) > 1:
                    mean -= (1 - w) * float(rest.mean())
                    parts.append(((1 - w) ** 2 * rest.var(ddof=1) / len(rest), len(rest) - 1))
            asked = [s for s in both[i] if s in right.get(one, {}) and s in right.get(other, {})]
            if len(asked) > 1:
                apart = np.array([right[one][s] - right[other][s] for s in asked])
                parts.append((of_images(apart), math.inf))
            total = float(sum(v for v, _ in parts))
            records[i] = {"n": int(k), "mean": mean}
            if k > 1 and total > 1e-18:
                spread = sum(v**2 / f for v, f in parts)
                records[i] |= {
                    "error": math.sqrt(total),
                    "df": total**2 / spread if spread else math.inf,
                }
    counts: dict[str, int] = defaultdict(int)
    for family, record in zip(families, records, strict=True):
        counts[family] += "error" in record
    for family, record in zip(families, records, strict=True):
        verdict(record, counts[family], margin)
    return records


def of_images(apart: np.ndarray) -> float:
    """The images' part of the variance of the mean, by a two-way analysis of variance."""
    n, images = apart.shape
    ms_images = n * apart.mean(axis=0).var(ddof=1)
    total = ((apart - apart.mean()) ** 2).sum()
    ss_seeds = images * ((apart.mean(axis=1) - apart.mean()) ** 2).sum()
    ss_rest = total - ss_seeds - ms_images * (images - 1)
    ms_rest = ss_rest / ((n - 1) * (images - 1))
    return max(float(ms_images - ms_rest), 0.0) / (n * images)


def verdict(record: dict[str, Any], count: int, margin: float) -> None:
    """Add intervals, p and verdict."""
    record["verdict"] = "too few seeds"
    if "error" not in record:
        return
    mean, error, df = record["mean"], record["error"], record["df"]
    alone, wide = (error * stats.t.isf(0.025 / k, df) for k in (1, count))
    p = 2 * stats.t.sf(abs(mean / error), df)
    record |= {"low": mean - alone, "high": mean + alone, "count": count}
    record |= {"wide_low": mean - wide, "wide_high": mean + wide}
    record |= {"p": float(p), "corrected": float(min(1.0, p * count))}
    record["detectable"] = wide + error * stats.t.ppf(0.8, df)
    if record["n"] >= (2 if count < 3 else 4):
        within = abs(mean) + wide < margin
        record["verdict"] = (
            ("better" if mean > 0 else "worse")
            if abs(mean) > wide
            else ("equivalent" if within else "undecided")
        )


# Comparisons.


def audit_comparison(audit: Audit, folder: Path) -> None:
    """Check a comparison's results.csv and results.md against its runs.csv."""
    runs = read(folder / "runs.csv")
    about = yaml.safe_load((folder / "comparison.yaml").read_text(encoding="utf-8"))
    metric, margin, variants = about["metric"], about["margin"], about["variants"]
    values = table_of(runs, metric)
    right: dict[tuple[str, str], dict[int, np.ndarray]] = defaultdict(dict)
    by_key: dict[tuple[str, str], list[Mapping[str, str]]] = defaultdict(list)
    for run in runs:
        key = run["group"], run["variant"]
        by_key[key].append(run)
        if run["right"] and metric.startswith("test/"):
            right[key][int(run["seed"])] = right_of(run["right"])
    keys = [(g, v) for g in about["groups"] for v in variants if (g, v) in by_key]
    twin: dict[tuple[str, str], str] = {}
    for i, key in enumerate(keys):
        for before in keys[:i]:
            if before[0] == key[0] and alike(by_key[before], by_key[key], metric):
                twin.setdefault(key, before[1])
    family = {v: name for name, of in about["families"].items() for v in of}
    written = {(r["group"], r["variant"]): r for r in read(folder / "results.csv")}
    page = (folder / "results.md").read_text(encoding="utf-8")
    where = str((folder / "results.csv").relative_to(audit.root))
    audit.same(where, sorted(written), sorted(keys))
    previous = dict(zip(variants[1:], variants, strict=False))
    kinds = {"difference": lambda key: (key[0], variants[0])}
    if about["chain"]:
        kinds["step"] = lambda key: (key[0], previous[key[1]])
    for kind, other in kinds.items():
        copied: dict[tuple[str, str], tuple[str, str]] = {}
        pairs = []
        for key in keys:
            if key[1] == variants[0] or not values[key].keys() & values[other(key)].keys():
                continue
            if key in twin and ((key[0], twin[key]), other(key)) in pairs:
                copied[key] = key[0], twin[key]
            elif not alike(by_key[key], by_key[other(key)], metric):
                pairs.append((key, other(key)))
        judged = judge(values, pairs, [family.get(k[1], "") for k, _ in pairs], margin, right)
        found = {key: record for (key, _), record in zip(pairs, judged, strict=True)}
        for key in keys:
            record = found.get(copied.get(key, key), {})
            for name in ("n", "mean", "error", "df", "low", "high", "wide_low", "wide_high", "p"):
                audit.same(
                    f"{where}: {key}: {kind}_{name}",
                    written[key].get(f"{kind}_{name}"),
                    record.get(name),
                )
            for name in ("corrected", "detectable", "verdict"):
                audit.same(
                    f"{where}: {key}: {kind}_{name}",
                    written[key].get(f"{kind}_{name}"),
                    record.get(name),
                )
            if kind == "difference":
                audit_row(audit, folder, page, key, values[key], record, twin.get(key), variants[0])
    for commit in {run["commit"] for run in runs}:
        audit_commit(audit, str((folder / "runs.csv").relative_to(audit.root)), commit)


def audit_row(
    audit: Audit,
    folder: Path,
    page: str,
    key: tuple[str, str],
    reached: Mapping[int, float],
    record: Mapping[str, Any],
    twin: str | None,
    base: str,
) -> None:
    """Check that results.md has what the row says, as printed."""
    cells = []
    if reached:
        each = list(reached.values())
        spread = f" ± {statistics.stdev(each):.4f}" if len(each) > 1 else ""
        cells.append(f"{statistics.mean(each):.4f}{spread}")
    if "mean" in record:
        cells.append(points(record["mean"]))
    if "low" in record:
        for low, high in (("low", "high"), ("wide_low", "wide_high")):
            cells.append(f"{points(record[low])} to {points(record[high])}")
    if key[1] != base:
        cells += [f"identical to {twin}"] if twin else [record["verdict"]] if record else []
    name = key[1].replace("|", r"\|")
    lines = [
        line
        for line in page.splitlines()
        if f"| {name} |" in line and (not key[0] or line.startswith(f"| {key[0]} |"))
    ]
    missing = [cell for cell in cells if not any(f"| {cell} |" in line for line in lines)]
    audit.holds(
        str((folder / "results.md").relative_to(audit.root)),
        f"{key}: no row with {', '.join(missing)}",
        true=not missing,
    )


def points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def read(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(2**24)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Commits.


def audit_commit(audit: Audit, where: str, commit: str | None) -> None:
    """Check that a result was made from a commit of this repository, without changes."""
    clean = bool(commit) and re.fullmatch(r"[0-9a-f]{40}", str(commit)) is not None
    audit.holds(where, f"its commit is {commit or 'not named'}; expected a clean one", true=clean)
    if clean and has_history(audit.root):
        command = ["git", "-C", str(audit.root), "merge-base", "--is-ancestor", str(commit), "HEAD"]
        known = subprocess.run(command, capture_output=True, check=False).returncode == 0
        audit.holds(where, f"its commit {commit} is not in this repository's history", true=known)


def has_history(root: Path) -> bool:
    """Whether this is a git repository with all its commits."""
    command = ["git", "-C", str(root), "rev-parse", "--is-shallow-repository"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == "false"


def audit_reports(audit: Audit) -> list[str]:
    """Check the commits of benchmarks' results; returns the older ones that name none."""
    older = []
    for path in sorted(audit.root.glob("results/*/*.json")):
        name = str(path.relative_to(audit.root))
        report = json.loads(path.read_text(encoding="utf-8"))
        report = report if isinstance(report, dict) else {"runs": report}
        runs = report.get("runs")
        commits = {report["commit"]} if "commit" in report else set()
        if isinstance(runs, list):
            commits |= {run["git_commit"] for run in runs if "git_commit" in run}
        inner = Audit(audit.root)
        for commit in commits or {None}:
            audit_commit(inner, name, commit)
        if name in UNNAMED:
            older.append(name)
            told = "it names a clean commit: take it off the list of those that do not"
            audit.holds(name, told, true=bool(inner.faults))
        else:
            audit.checked += inner.checked
            audit.faults += inner.faults
    for name in UNNAMED:
        there = (audit.root / name).is_file()
        audit.holds(name, "is not there: take it off the list of older results", true=there)
    return older


# Recipes and pages.


def audit_recipes(audit: Audit) -> dict[str, dict[str, str]]:
    """Recompute every recipe's table from its runs.

    Returns:
        By file name the accuracy, the seconds of the whole command and the seeds, as printed.
    """
    facts = {}
    for path in sorted(audit.root.glob("results/recipes/*.json")):
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        table = path.with_suffix(".md").read_text(encoding="utf-8")
        accuracy = [run["test"]["test/accuracy"] for run in runs]
        seconds = [run["wall_seconds"] for run in runs]
        spread = statistics.stdev(accuracy) if len(runs) > 1 else 0.0
        shown = f"{statistics.fmean(accuracy):.4f} ± {spread:.4f}"
        for row in (
            f"| n = {len(runs)} |",
            f"| test accuracy | {shown} | {', '.join(f'{a:.4f}' for a in accuracy)} |",
            f"| whole command, seconds | {statistics.fmean(seconds):.1f} ±",
        ):
            audit.holds(str(path.with_suffix(".md")), f"no line {row}", true=row in table)
        facts[path.stem] = {
            "accuracy": shown,
            "seconds": f"{statistics.fmean(seconds)}",
            "n": str(len(runs)),
        }
    return facts


def audit_measured(audit: Audit, facts: Mapping[str, Mapping[str, str]]) -> None:
    """Check README's table of recipes, and what configurations say of themselves."""
    lines = (audit.root / "README.md").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        links = re.findall(r"\]\(configs/([\w/]+)\.yaml\)", line)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| [configs/") or len(cells) != 4:
            continue
        name = "+".join([links[0].replace("/", "_"), *(Path(other).stem for other in links[1:])])
        known = facts.get(name, {})
        audit.same(f"README.md:{number}: {name}: accuracy", cells[2], known.get("accuracy"))
        audit.same(f"README.md:{number}: {name}: seconds", cells[3], rounded(known, cells[3]))
        if known.get("n") != "3":
            audit.holds(
                f"README.md:{number}", "n is not told", true=f"n = {known.get('n')}" in line
            )
    for path in sorted(audit.root.glob("configs/**/*.yaml")):
        head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), path.open()))
        told = re.findall(r"est accuracy\s+(?:# )?(0\.\d{4} ± 0\.\d{4}) over (\d+) seeds", head)
        parts = path.relative_to(audit.root / "configs").with_suffix("").parts
        known = facts.get("_".join(parts), {})
        if told and known and parts[0] != "search":
            where = str(path.relative_to(audit.root))
            audit.same(f"{where}: accuracy and seeds", told[0], (known["accuracy"], known["n"]))
            seconds = re.findall(r"whole command(?:\s|# |takes)*(\d+(?:\.\d+)?) s", head)
            for each in seconds or [""]:
                audit.same(f"{where}: seconds", each, rounded(known, each))


def rounded(known: Mapping[str, str], like: str) -> str | None:
    """The seconds with as many decimals as what is written."""
    digits = len(like.partition(".")[2])
    return f"{float(known['seconds']):.{digits}f}" if known else None


def tokens(text: str) -> Iterator[tuple[int, str]]:
    """Accuracies with their spreads, and signed differences, with the line that they are in."""
    for number, line in enumerate(text.splitlines(), 1):
        for token in re.findall(r"0\.\d{3,4} ± 0\.\d{3,4}|[+−]\d+\.\d\d+", line):
            yield number, token


def audit_pages(audit: Audit) -> None:
    """Check that every accuracy and every difference on a page was printed by a command."""
    results = [*audit.root.glob("results/**/*.md"), *audit.root.glob("results/**/*.html")]
    printed = "\n".join(path.read_text(encoding="utf-8") for path in results)
    pages = [audit.root / "README.md", *audit.root.glob("docs/*.md")]
    for path in [*pages, *audit.root.glob("configs/**/*.yaml")]:
        for number, token in tokens(path.read_text(encoding="utf-8")):
            where = f"{path.relative_to(audit.root)}:{number}"
            audit.holds(where, f"{token} is in no result", true=token in printed)
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for quoted in re.findall(r"^> (.+)$", text, re.MULTILINE):
            for sentence in quoted.removesuffix(" <br>").split(" <br> "):
                where = str(path.relative_to(audit.root))
                audit.holds(
                    where, f"quoted, but in no result: {sentence}", true=sentence in printed
                )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=ROOT, help="of the checkout")
    audit = Audit(parser.parse_args(arguments).root.resolve())
    for path in sorted(audit.root.glob("results/compare/*/comparison.yaml")):
        audit_comparison(audit, path.parent)
    audit_measured(audit, audit_recipes(audit))
    audit_pages(audit)
    older = audit_reports(audit)
    for fault in audit.faults:
        print(fault, file=sys.stderr)
    if not has_history(audit.root):
        print("no git history here: commits were not looked up")
    if older:
        print(f"older results that name no clean commit, {len(older)}: {', '.join(older)}")
    print(f"{audit.checked:,} values and statements checked, {len(audit.faults)} differ")
    if audit.faults:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
