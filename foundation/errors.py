"""The one error type that the command lines answer with a line instead of a traceback."""


class UserError(Exception):
    """A mistake the user can put right: names the value, what was expected, and what to do.

    Shown, it is one line of printable text, whatever a file of somebody else had written into it.
    """

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().split("\n")))


def printable(text: str) -> str:
    """The text with its control characters spelled out, so that a terminal does not obey them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
