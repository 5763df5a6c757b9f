"""What a user can put right."""


class Refusal(ValueError):
    """A value, a file, a folder or a server is not what it should be; the message says how."""
