"""Example command lines that end the help of each command."""

from __future__ import annotations

EXAMPLES = {
    "serve": ("xdlm serve stories", "xdlm serve stories digits --port 8001"),
    "generate": (
        'xdlm generate "Once upon a time" --seed 1',
        'xdlm generate "Once upon a time" --max-tokens 60 --watch',
    ),
    "draw": (
        "xdlm draw all digits.png --count 12",
        "xdlm draw 3 film.png --film 9 --scale 8 --seed 4",
    ),
    "list": ("xdlm list", "xdlm list --json"),
    "rm": ("xdlm rm ORG/NAME", "xdlm rm ORG/NAME@REVISION"),
    "pull": ("xdlm pull GSAI-ML/LLaDA-8B-Instruct", "xdlm pull ORG/NAME@REVISION"),
    "info": ("xdlm info stories", "xdlm info ORG/NAME"),
    "make-random": ("xdlm make-random DIR", "xdlm make-random DIR --family dit --shape small-owt"),
    "convert": ("xdlm convert last.ckpt DIR --mixing-ratio 0.1", "xdlm convert ORG/NAME DIR"),
    "score": (
        'xdlm score "Once upon a time"',
        'xdlm score "there was a cat." --prompt "Once upon a time" --json',
    ),
    "cluster": ("xdlm cluster stories --replicas 2", "xdlm cluster stories --port 8001"),
}


def examples_of(command: str) -> str:
    """The examples of a command as paragraphs, which Typer keeps on lines of their own."""
    return "\n\n".join(("Examples:", *EXAMPLES[command]))
