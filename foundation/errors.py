"""The one error type that the command lines answer with a line instead of a traceback."""


class UserError(Exception):
    """A mistake the user can put right: names the value, what was expected, and what to do."""
