"""Errors that a user can fix; the commands print them in one line."""


class Refusal(ValueError):
    """A value, file, folder or server cannot be used; the message says why."""
