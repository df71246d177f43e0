"""What kills, signals, full disks, hostile files and damaged data cost a run.

    python -m benchmarks.faults --kills 100 --signals 20 --disks 10 --files 100

Small trainings on real data, each in a process of its own:

- kills: SIGKILL at a random moment of a run's life, again and again with a chance of a half, then
  the command that goes on. Lost is a run that did not end bit for bit like one that nobody killed:
  weights, averages, optimizer, schedule, ``metrics.csv``, TensorBoard, ``summary.json``.
- signals: SIGINT, SIGTERM or SIGHUP instead, once. Lost is also an exit status other than 130, 143
  or 129.
- disks: a run on a disk of a random size that it does not fit on, then the command that goes on
  when the disk was enlarged. Takes root, which may mount one.
- files: a checkpoint with a flipped bit, a cut end, bytes swapped, or a part of another type. Lost
  is an answer that is not one line with exit status 2, unless the weights are whole.
- data: FashionMNIST's files damaged likewise, of a user. Lost is a file that was replaced.

Prints a Markdown table of tried and lost and writes it to ``results/benchmarks/faults.{md,json}``.
The status is 1 where something was lost.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.recipes import ROOT, save, shown_command
from benchmarks.same_run import different
from datamodules.sources import FILES
from experiment.main import command
from foundation.checkout import technique

# Each by itself on the baseline network: what draws numbers, or keeps a state of its own.
TECHNIQUES = (
    "dropout",
    "affine",
    "random_crop",
    "trivial_augment",
    "mixup",
    "cutmix",
    "ema",
    "swa",
    "one_cycle",
    "reduce_on_plateau",
)
SHORT = (
    "--model.width=4",
    "--model.hidden_size=16",
    "--data.train_fraction=0.05",
    "--data.batch_size=64",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
    "--trainer.max_epochs=4",
    "--trainer.limit_val_batches=2",
    "--trainer.limit_test_batches=2",
    "--trainer.log_every_n_steps=5",
    "--trainer.enable_progress_bar=false",
    "--early_stopping.patience=100",
)
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class Command:
    """A ``train.py`` command in a process of its own, which starts in a moment: it is a fork.

    Args:
        args: of the command.
        folder: that it runs in.
    """

    def __init__(self, args: Sequence[str], folder: Path) -> None:
        self.log = folder.with_suffix(".log")  # beside it: its disk may be full
        self.process = multiprocessing.get_context("fork").Process(
            target=self._run, args=(list(args), folder)
        )
        time.sleep(1 - time.time() % 1)  # TensorBoard sorts by the second a file was begun in
        self.process.start()

    def _run(self, args: list[str], folder: Path) -> None:
        os.chdir(folder)
        descriptor = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv = ["train.py", *args]
        command()

    def wait(self, seconds: float = 300) -> int:
        """The exit status; a negative one is the signal that ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {seconds} s: {self.log.read_text()}")
        return self.process.exitcode

    def end(self, number: int, after: float) -> int:
        """Send a signal after some seconds, and wait."""
        self.process.join(after)
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, number)
        return self.wait()


def one_line(command: Command) -> str:
    """What is wrong with an answer that should be one line; empty for nothing."""
    text = command.log.read_text()
    lines = [line for line in text.splitlines() if line.strip()]
    if command.process.exitcode != 2:
        return f"exit status {command.process.exitcode}: {lines[-1:]}"
    if "Traceback" in text or not any(line.startswith("train.py: error: ") for line in lines):
        return f"no line: {lines[-1:]}"
    return ""


def newest(folder: Path) -> Path:
    runs = folder.glob("runs/*/version_*")
    return max(runs, key=lambda run: int(run.name.removeprefix("version_")))


def go_on(args: Sequence[str], folder: Path) -> list[str]:
    """What a person would type next: go on, or start again where nothing is saved yet."""
    saved = [*folder.glob("runs/*/version_*")] and (newest(folder) / "checkpoints/last.ckpt")
    return ["fit", "--ckpt_path=last"] if saved and saved.exists() else list(args)


class Fits:
    """Trainings of one technique each, and what they end as when nothing happens to them.

    Args:
        folder: for all of it.
        root: folder of all data sets.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.seconds: dict[str, float] = {}

    def args(self, name: str) -> list[str]:
        base = ROOT / "configs" / "baseline_cnn.yaml"
        configs = [f"--config={base}", f"--config={technique(name)}"]
        return ["fit", *configs, f"--data.root={self.root}", *SHORT]

    def whole(self, name: str) -> Path:
        """The folder of a run that nothing happens to."""
        folder = self.folder / "whole" / name
        if name not in self.seconds:
            folder.mkdir(parents=True)
            began = time.perf_counter()
            command = Command(self.args(name), folder)
            if command.wait():
                raise SystemExit(command.log.read_text())
            self.seconds[name] = time.perf_counter() - began
        return newest(folder)

    def new(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))


def kill(fits: Fits, name: str, dice: random.Random) -> str:
    """Kill a run until the dice let it be; say what differs in the end."""
    whole, folder, args = fits.whole(name), fits.new(), fits.args(name)
    status = Command(args, folder).end(signal.SIGKILL, dice.uniform(0, fits.seconds[name]))
    while status:
        again = Command(go_on(args, folder), folder)
        if dice.random() < 0.5:
            status = again.end(signal.SIGKILL, dice.uniform(0, fits.seconds[name]))
        else:
            status = again.wait()
            if status:
                return f"going on ended with {status}: {again.log.read_text()[-300:]}"
    return different(newest(folder), whole)


def interrupt(fits: Fits, name: str, dice: random.Random) -> str:
    """Interrupt a run once, go on; say what differs, or whether it ended in another way."""
    whole, folder, args = fits.whole(name), fits.new(), fits.args(name)
    number = dice.choice(list(STATUS))
    first = Command(args, folder)
    status = first.end(number, dice.uniform(0.2, fits.seconds[name]))
    text = first.log.read_text()
    if status not in (0, STATUS[number]) or "Traceback" in text:
        return f"{number.name} ended it with {status}: {text[-300:]}"
    if status and Command(go_on(args, folder), folder).wait():
        return "going on failed"
    return different(newest(folder), whole)


def fill(fits: Fits, name: str, dice: random.Random) -> str:
    """Train on a disk that is too small, enlarge it, go on; say what differs."""
    whole, folder, args = fits.whole(name), fits.new(), fits.args(name)
    size = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file())
    small = int(size * dice.uniform(0.1, 0.9))
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, f"size={small}", "tmpfs", folder], check=True)
    try:
        first = Command(args, folder)
        status = first.wait()
        text = first.log.read_text()
        if "Traceback" in text or status not in (0, 1, 2):
            return f"ended with {status}: {text[-300:]}"
        subprocess.run([*mount, f"remount,size={100 * size}", "tmpfs", folder], check=True)
        again = Command(go_on(args, folder), folder)
        if status and again.wait():
            return f"going on failed: {again.log.read_text()[-300:]}"
        return different(newest(folder), whole)
    finally:
        subprocess.run(["umount", folder], check=True)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """A flipped bit, a cut end, or a stretch of other bytes."""
    found, place = bytearray(content), dice.randrange(len(content))
    kind = dice.choice(("bit", "cut", "stretch"))
    if kind == "bit":
        found[place] ^= 1 << dice.randrange(8)
    elif kind == "cut":
        del found[place:]
    else:
        found[place : place + 64] = dice.randbytes(len(found[place : place + 64]))
    return bytes(found)


JUNK: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: "junk",
    lambda: -1,
    lambda: [1, "two"],
    lambda: {"junk": {"junk": 1}},
    lambda: torch.zeros(3),
    lambda: 10**30,
    lambda: float("nan"),
)


def replaced(node: Any, dice: random.Random) -> Any:
    """A copy with a random part replaced by something of another type."""
    if isinstance(node, dict | list | tuple) and len(node) and dice.random() < 0.7:
        if isinstance(node, dict):
            key = dice.choice(list(node))
            return {**node, key: replaced(node[key], dice)}
        place = dice.randrange(len(node))
        parts = [replaced(x, dice) if n == place else x for n, x in enumerate(node)]
        return type(node)(parts)
    return dice.choice(JUNK)()


def hostile(fits: Fits, name: str, dice: random.Random) -> str:
    """Test, or go on from, a damaged checkpoint; say what is wrong with the answer."""
    whole, folder = fits.whole(name), fits.new()
    good = whole / "checkpoints" / "last.ckpt"
    path = folder / "strange.ckpt"
    if dice.random() < 0.5:
        path.write_bytes(damaged(good.read_bytes(), dice))
    else:
        content = io.BytesIO()
        torch.save(replaced(torch.load(good, weights_only=True), dice), content)
        path.write_bytes(content.getvalue())
    verb = dice.choice(("test", "fit"))
    longer = ["--trainer.max_epochs=5"] if verb == "fit" else []
    command = Command([verb, f"--ckpt_path={path}", f"--data.root={fits.root}", *longer], folder)
    if command.wait() == 0:  # what was damaged does not count here, if the weights are whole
        with contextlib.suppress(Exception):
            theirs = torch.load(path, weights_only=True)["state_dict"]
            ours = torch.load(good, weights_only=True)["state_dict"]
            if all(torch.equal(theirs[key], ours[key]) for key in ours):
                return ""
        return "accepted other weights"
    return one_line(command)


def users_data(fits: Fits, name: str, dice: random.Random) -> str:
    """Train on a user's own, damaged files; say which one was replaced."""
    folder = fits.new()
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FILES:
        shutil.copy(fits.root / "FashionMNIST" / "raw" / file, raw)
    victim = raw / dice.choice(FILES)
    victim.write_bytes(damaged(victim.read_bytes(), dice))
    before = {file: (raw / file).read_bytes() for file in FILES}
    command = Command([*fits.args(name), f"--data.root={folder / 'data'}"], folder)
    command.wait()
    for file, content in before.items():
        if (raw / file).read_bytes() != content:
            return f"{file} was replaced"
    shutil.rmtree(raw)
    return one_line(command)


KINDS: dict[str, Callable[[Fits, str, random.Random], str]] = {
    "kills": kill,
    "signals": interrupt,
    "disks": fill,
    "files": hostile,
    "data": users_data,
}


def table(found: dict[str, list[str]]) -> str:
    """Tried and lost of each kind, and what was lost first, as Markdown."""
    lines = ["| fault | tried | lost | the first |", "|---|---|---|---|"]
    for kind, results in found.items():
        lost = [result for result in results if result]
        first = lost[0].replace("\n", " ").replace("|", "/")[:200] if lost else ""
        lines.append(f"| {kind} | {len(results)} | {len(lost)} | {first} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for kind, number in zip(KINDS, (100, 20, 10, 100, 10), strict=True):
        parser.add_argument(f"--{kind}", type=int, default=number)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, default=ROOT / "data")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "benchmarks")
    given = parser.parse_args(arguments)
    # One of several processes, and a fork must not find threads half-way through something.
    torch.set_num_threads(1)
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        fits = Fits(Path(folder), given.root.resolve())
        for kind, act in KINDS.items():
            dice = random.Random(f"{given.seed}/{kind}")
            found[kind] = []
            for number in range(getattr(given, kind)):
                name = TECHNIQUES[number % len(TECHNIQUES)]
                result = act(fits, name, dice)
                found[kind].append(f"{name}: {result}" if result else "")
                print(f"{kind} {number + 1}: {found[kind][-1] or 'kept'}", flush=True)
    shown = shown_command("benchmarks.faults", arguments)
    how = f"networks of a few thousand weights, seed {given.seed}"
    save(given.results / "faults", shown, how, table(found), found=found)
    raise SystemExit(any(any(results) for results in found.values()))


if __name__ == "__main__":
    main()
