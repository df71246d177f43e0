"""Write docs/techniques.md's tables from the overlays' headers: ``python -m docs.techniques``.

Every overlay opens with what it does, and with ``When``, ``Option``, ``Range``, ``Hurts`` and
``Source``. A family's introduction is the README.md beside its overlays. The page above the mark
is written by hand.
"""

import re
from pathlib import Path

from foundation.checkout import CONFIGS, ROOT
from foundation.whole_file import write

PAGE = ROOT / "docs" / "techniques.md"
OVERLAYS = CONFIGS / "techniques"
MARK = (
    "<!-- From here on written by `python -m docs.techniques`: change the overlays' headers. -->\n"
)
FAMILIES = (
    "regularization",
    "augmentation",
    "normalization",
    "initialization",
    "optimizers",
    "schedules",
    "preprocessing",
    "activations",
    "architecture",
    "attention",
)
FIELDS = ("When", "Option", "Range", "Hurts", "Source")
HEAD = """\
| technique | overlay | option | suggested values | where it hurts | source |
|---|---|---|---|---|---|
"""


def header(overlay: Path) -> dict[str, str]:
    """The opening comment of an overlay, by field: ``What``, and each of ``FIELDS``.

    Raises:
        ValueError: a field is missing, empty or out of order.
    """
    lines = overlay.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), None)
    text = "\n".join(line.removeprefix("#").strip() for line in lines[:end])
    parts = re.split(rf"^({'|'.join(FIELDS)}): ", f"{text}\n", flags=re.MULTILINE)
    found = dict(
        zip(("What", *parts[1::2]), (" ".join(p.split()) for p in parts[::2]), strict=True)
    )
    if tuple(found) != ("What", *FIELDS) or not all(found.values()):
        raise ValueError(
            f"{overlay}: its header has {', '.join(found)}; expected what it does, then "
            f"{', '.join(FIELDS)}, each with a text"
        )
    return found


def linked(source: str) -> str:
    """A source whose arXiv number or address has become a link on the words before it."""
    works = []
    for work in source.removesuffix(".").split("; "):
        match = re.fullmatch(r"(.+?),? (?:arXiv:(\S+)|(https://\S+))", work)
        if match:
            works.append(f"[{match[1]}]({match[3] or f'https://arxiv.org/abs/{match[2]}'})")
        else:
            works.append(work)
    return "; ".join(works)


def row(overlay: Path) -> str:
    """An overlay's line of its family's table, as Markdown."""
    told = header(overlay)
    cells = [
        told["What"].removesuffix("."),
        f"[{overlay.stem}](../configs/techniques/{overlay.parent.name}/{overlay.name})",
        f"`{told['Option']}`",
        told["Range"].removesuffix("."),
        told["Hurts"].removesuffix("."),
        linked(told["Source"]),
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def section(family: Path) -> str:
    """A family's introduction and table, as Markdown."""
    introduction = (family / "README.md").read_text(encoding="utf-8")
    introduction = introduction.replace("](../../../docs/", "](")
    return f"#{introduction}\n{HEAD}{''.join(row(path) for path in sorted(family.glob('*.yaml')))}"


def page(by_hand: str, overlays: Path = OVERLAYS) -> str:
    """The whole page: what is written by hand, the mark, and a section per family."""
    return "\n".join([by_hand + MARK, *(section(overlays / family) for family in FAMILIES)])


def main() -> None:
    """Replace what follows the mark in docs/techniques.md."""
    write(PAGE, page(PAGE.read_text(encoding="utf-8").partition(MARK)[0]))


if __name__ == "__main__":
    main()
