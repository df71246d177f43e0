import csv
import io

from rich.console import Console

from studies.report.tables import as_csv, as_markdown, for_terminal


def test_csv_is_unrounded_and_has_every_key() -> None:
    text = as_csv([{"a": 1 / 3}, {"b": "x,\ny"}], ("n",))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["n", "a", "b"]
    assert float(rows[0]["a"]) == 1 / 3
    assert (rows[1]["a"], rows[1]["b"]) == ("", "x,\ny")
    assert as_csv([], ("n", "m")) == "n,m\n"


def test_markdown_is_escaped_and_a_line_per_row() -> None:
    assert as_markdown(["a", "b"], [("x|y\nz", None), (0.123456, 2)]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        r"| x\|y z | — |",
        "| 0.1235 | 2 |",
    ]


def test_the_terminal_shows_brackets_as_they_are() -> None:
    table = for_terminal(
        ["word", "n"],
        [("[red]x", 1), ("y", None)],
        words=["word"],
        styles=["bold", None],
        notes=["see [below]"],
    )
    file = io.StringIO()
    Console(file=file, width=60).print(table)
    lines = [line.strip() for line in file.getvalue().splitlines() if line.strip(" ─")]
    assert [line.split() for line in lines] == [
        ["word", "n"],
        ["[red]x", "1"],
        ["y", "—"],
        ["see", "[below]"],
    ]
