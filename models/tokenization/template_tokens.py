"""Special tokens of a chat template, told apart from the same characters in a message.

A template writes special tokens as literals (``'<|im_end|>'``) and as variables (``bos_token``).
Each of them is replaced by a mark before it meets a message: a number drawn for this one
conversation, in characters that no message and no template holds. What is found in the finished
text as a mark was written by the template; anything else is text, whatever it spells. Messages can
be cut, joined, turned round or formatted by the template, and never make a mark or a part of one.

A token that a template puts together (``'<|' ~ message.role ~ '|>'``) counts as its own where every
part is: literals, and roles, which come from a fixed set.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import groupby
from operator import add
from typing import Any, TypeVar, cast

from jinja2 import nodes, pass_context
from jinja2.sandbox import ImmutableSandboxedEnvironment

Pieces = list[tuple[str, bool]]
"""A conversation as pieces of text, in order; true marks a special token."""

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
JOINED, LITERAL = "own text", "own literal"  # names that no template can write
DIGITS, BASE = 24, 10  # of a mark's number
PRIVATE = (0xF0000, 0x10FFFD)  # planes 15 and 16: code points without a meaning
LONGEST_OWN = 256  # characters of a text that can still become part of a special token
PASSING = ("join", "default", "d")  # filters whose arguments are written
NodeT = TypeVar("NodeT", bound=nodes.Node)


class Own(str):
    """Text that is the template's own, or a role. Whatever is done to it makes plain text of it."""

    __slots__ = ()

    def __new__(cls, text: str) -> str:
        """A plain text: Jinja's sandbox formats by calling the class of the format."""
        return str(text)

    @classmethod
    def of(cls, text: str) -> Own:
        """The only way to one."""
        return super().__new__(cls, text)


class CutToken(ValueError):
    """A template that wrote a part of a special token's mark."""


class Marks:
    """The marks of one conversation."""

    def __init__(self, special: Sequence[str], texts: Iterable[str]) -> None:
        """Marks for the tokens ``special``, in characters that are in none of ``texts``."""
        self._special = sorted({token for token in special if token}, key=len, reverse=True)
        used = set().union(*map(set, texts)) if special else set()
        free = (chr(secrets.choice(range(*PRIVATE))) for _ in iter(int, 1))
        drawn: dict[str, None] = {}
        while len(drawn) < 2 + BASE:
            drawn |= {char: None for char in (next(free),) if char not in used}
        self._open, self._close, *digits = drawn
        # a number for each, so that no part of one is a part of another
        self._number = {
            token: "".join(secrets.choice(digits) for _ in range(DIGITS)) for token in self._special
        }
        self._token = {number: token for token, number in self._number.items()}
        self._literals: dict[str, str] = {}
        self._spelled = re.compile("|".join(map(re.escape, self._special)))
        self._mark = re.compile(f"{self._open}([{''.join(digits)}]{{{DIGITS}}}){self._close}")
        self._part = re.compile(f"[{''.join(drawn)}]")

    def marked(self, text: str) -> str:
        """Text of the template with a mark in place of each special token."""
        if not self._special:
            return text
        return self._spelled.sub(
            lambda found: f"{self._open}{self._number[found[0]]}{self._close}", text
        )

    def literal(self, text: str) -> str:
        """A literal that stands alone in the template; the same one may be asked for often."""
        if (found := self._literals.get(text)) is None:
            found = self._literals[text] = self.joined([text], "1", "~")
        return found

    def plain(self, text: str) -> str:
        """Text for people: marks are spelled out."""
        return self._mark.sub(lambda found: self._token.get(found[1], ""), text)

    def pieces(self, text: str) -> Pieces:
        """A finished text, cut at its marks.

        Raises:
            CutToken: part of a mark is in it.
        """
        found = self._mark.split(text)
        cut = any(map(self._part.search, found[::2]))
        if cut or not self._token.keys() >= set(found[1::2]):
            raise CutToken("it takes one of its special tokens apart")
        named = [(self._token[p] if i % 2 else p, i % 2 == 1) for i, p in enumerate(found)]
        return [piece for piece in named if piece[0]]

    def joined(self, pieces: Sequence[Any], literal: str, by: str) -> Any:
        """Several values as one.

        Args:
            pieces: the values.
            literal: for each "1" where it stands in the template, else "0".
            by: "+", or "~" for the texts of all of them.
        """
        flagged = [
            (flag == "1" or isinstance(piece, Own), piece)
            for flag, piece in zip(literal, pieces, strict=True)
        ]
        parts: list[Any] = []
        for own, run in groupby(flagged, lambda pair: pair[0]):
            values = [piece for _, piece in run]
            parts += [self.marked("".join(values))] if own else values
        if len(parts) == 1 and flagged[0][0] and len(parts[0]) <= LONGEST_OWN:
            unmarked = self._open not in parts[0]
            return Own.of(parts[0]) if unmarked else parts[0]
        return "".join(map(str, parts)) if by == "~" else reduce(add, parts)


class Marking:
    """Makes a template write marks: ``parse`` it here, and set ``marks`` before it runs."""

    def __init__(self, environment: ImmutableSandboxedEnvironment) -> None:
        """``environment`` gets a filter that its templates cannot name."""
        self.marks = Marks((), ())
        self._environment = environment

        @pass_context  # so that nothing is worked out when the template is compiled
        def own(_context: object, pieces: tuple[Any, ...], literal: str, by: str) -> Any:
            return self.marks.joined(pieces, literal, by)

        @pass_context
        def literal(_context: object, text: str) -> str:
            return self.marks.literal(text)

        environment.filters |= {JOINED: own, LITERAL: literal}

    def parse(self, source: str) -> nodes.Template:
        """The template, with its literals as values of ``Marks.joined``.

        Raises:
            TemplateError: not a template.
        """
        tree = self._environment.parse(source)
        _marking(tree)
        tree.set_environment(self._environment)
        tree.set_lineno(1)
        return tree


def messages_of(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages for a template: their roles, where these are known ones, count as its own text."""

    def value(name: str, given: Any) -> Any:
        return Own.of(given) if name == "role" and given in ROLES else given

    return [{name: value(name, text) for name, text in one.items()} for one in messages]


def _own(pieces: Sequence[nodes.Expr], by: str) -> nodes.Filter:
    literal = "".join("1" if _is_literal(piece) else "0" for piece in pieces)
    given: list[nodes.Expr] = []
    for piece in pieces:
        if isinstance(piece, nodes.TemplateData):
            given.append(nodes.Const(piece.data))
        else:
            given.append(piece if _is_literal(piece) else _marking(piece))
    if literal == "1":
        return nodes.Filter(given[0], LITERAL, [], [], None, None)
    flags: list[nodes.Expr] = [nodes.Const(literal), nodes.Const(by)]
    return nodes.Filter(nodes.Tuple(given, "load"), JOINED, flags, [], None, None)


def _is_literal(node: nodes.Node) -> bool:
    is_text = isinstance(node, nodes.Const) and isinstance(node.value, str)
    return is_text or isinstance(node, nodes.TemplateData)


def _summands(node: nodes.Expr) -> list[nodes.Expr]:
    """Parts of a + b + c."""
    parts: list[nodes.Expr] = []
    while isinstance(node, nodes.Add):
        parts.append(node.right)
        node = node.left
    return [node, *reversed(parts)]


def _is_read(node: nodes.Node, field: str) -> bool:
    """Whether a part is only looked at, so that its literals are left as they are."""
    if isinstance(node, nodes.Filter):
        return field != "node" and node.name not in PASSING
    if isinstance(node, nodes.Call):
        called = node.node
        macro = isinstance(called, nodes.Name) and called.name != "raise_exception"
        return field != "node" and not macro
    looked_at: list[tuple[type[nodes.Node], str]] = [
        (nodes.Getitem, "arg"),
        (nodes.Pair, "key"),
        (nodes.If, "test"),
        (nodes.For, "test"),
        (nodes.CondExpr, "test"),
    ]
    return any(isinstance(node, kind) and field == name for kind, name in looked_at)


def _marking(node: NodeT) -> NodeT:
    """A part of a template whose value may be written, its literals marked when it runs."""
    if isinstance(node, nodes.Compare | nodes.Test | nodes.Not | nodes.ScopedEvalContextModifier):
        return node
    if _is_literal(node):
        return cast(NodeT, _own([cast(nodes.Expr, node)], "~"))
    if isinstance(node, nodes.Output):
        node.nodes = [_own(node.nodes, "~")]
        return node
    if isinstance(node, nodes.Concat):
        return cast(NodeT, _own(node.nodes, "~"))
    if isinstance(node, nodes.Add) and any(map(_is_literal, parts := _summands(node))):
        return cast(NodeT, _own(parts, "+"))
    change: Callable[[Any], Any] = lambda part: (  # noqa: E731
        _marking(part) if isinstance(part, nodes.Node) else part
    )
    for field, value in node.iter_fields():
        if not _is_read(node, field):
            whole = [change(part) for part in value] if isinstance(value, list) else change(value)
            setattr(node, field, whole)
    return node
