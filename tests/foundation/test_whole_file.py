"""A file is replaced at once, or stays as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from foundation.whole_file import write


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write(path, "first")
    write(path, "zweites, über alles")
    assert path.read_text(encoding="utf-8") == "zweites, über alles"
    assert list(path.parent.iterdir()) == [path]


def write_again_and_again(path: Path) -> None:
    number = 0
    while True:
        number += 1
        write(path, f"{number % 10}" * 100_000)


def test_a_kill_leaves_a_whole_one(tmp_path: Path, kill_while: Callable[..., None]) -> None:
    path = tmp_path / "a.txt"
    for turn in range(10):
        kill_while(write_again_and_again, path, 0.01 + 0.001 * turn)
        text = path.read_text()
        assert (len(text), len(set(text))) == (100_000, 1)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory") as error:
        write(tmp_path / "a", "no file can have a folder's name")
    assert error.value.filename == str(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
