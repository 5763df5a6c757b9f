"""The bytes of a vocabulary as a trie, and automata over bytes turned into automata over tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sampler.constraints.byte_automaton import DEAD, ByteAutomaton
from sampler.constraints.token_automaton import TokenAutomaton


class TooLarge(ValueError):
    """An automaton with more states or transitions than the limit; ``found`` and ``limit``."""

    def __init__(self, what: str, found: int, limit: int) -> None:
        super().__init__(f"needs {found} {what}; the limit is {limit}")
        self.found, self.limit = found, limit


@dataclass(frozen=True)
class Level:
    """Nodes of the trie at one depth.

    Attributes:
        parent: of each node, its index in the level above.
        byte: by which it is reached.
        ids: tokens that end at this depth.
        nodes: of each of them, where it ends.
    """

    parent: Int[np.ndarray, " N"]
    byte: Int[np.ndarray, " N"]
    ids: Int[np.ndarray, " I"]
    nodes: Int[np.ndarray, " I"]


@dataclass(frozen=True)
class TokenBytes:
    """The tokens of a vocabulary that a text may be made of.

    Attributes:
        vocab_size: number of ids.
        ends: ids that may follow a text, up to the end of its canvas.
        levels: the trie of the tokens' bytes, from depth 1 on.
    """

    vocab_size: int
    ends: tuple[int, ...]
    levels: tuple[Level, ...]

    @classmethod
    def of(
        cls, vocab_size: int, data: Mapping[int, bytes], ends: tuple[int, ...] = ()
    ) -> TokenBytes:
        """The trie of a vocabulary.

        Args:
            vocab_size: number of ids.
            data: bytes of each id that has some.
            ends: see the attributes; their bytes do not count.
        """
        ids = np.array([i for i, text in data.items() if text and i not in ends], dtype=np.int64)
        texts = [data[i] for i in ids.tolist()]
        sizes = np.array([len(text) for text in texts], dtype=np.int64)
        joined = np.frombuffer(b"".join(texts), dtype=np.uint8)
        starts = sizes.cumsum() - sizes
        at = np.zeros(len(ids), dtype=np.int64)
        levels: list[Level] = []
        left = np.arange(len(ids))
        while len(left):
            depth = len(levels)
            keys = at[left] * 256 + joined[starts[left] + depth]
            nodes, which = np.unique(keys, return_inverse=True)
            at[left] = which
            done = sizes[left] == depth + 1
            levels.append(Level(nodes // 256, nodes % 256, ids[left[done]], which[done]))
            left = left[~done]
        return cls(vocab_size, ends, tuple(levels))

    def automaton(self, language: ByteAutomaton, most_transitions: int = 1 << 62) -> TokenAutomaton:
        """The automaton over tokens of a language of texts.

        A token is the function from states to states that its bytes compose; there are far fewer
        functions than tokens, so each level of the trie composes those of the level above that are
        different from each other.

        Raises:
            TooLarge: more than ``most_transitions`` from states by classes of tokens.
        """
        following = np.pad(language.following, ((0, 1), (0, 0)), constant_values=DEAD)
        functions = np.arange(len(language.following), dtype=np.int32)[None]
        of_nodes = np.zeros(1, dtype=np.int64)
        token_ids, found, tables, count = [], [], [], 0
        for level in self.levels:
            of_parents = of_nodes[level.parent]
            live = np.flatnonzero(of_parents >= 0)
            keys, which = np.unique(of_parents[live] * 256 + level.byte[live], return_inverse=True)
            if len(keys) * functions.shape[1] > 8 * most_transitions:
                raise TooLarge("transitions", len(keys) * functions.shape[1], most_transitions)
            composed = following[functions[keys // 256], (keys % 256)[:, None]]
            functions, of_keys = distinct(composed)
            of_nodes = np.full(len(level.parent), -1)
            of_nodes[live] = of_keys[which]
            used = of_nodes[level.nodes]
            token_ids.append(level.ids[used >= 0])
            found.append(used[used >= 0] + count)
            tables.append(functions)
            count += len(functions)
            if not len(functions):
                break
        table, of_functions = distinct(np.concatenate(tables))
        classes = np.full(self.vocab_size, -1)
        classes[np.concatenate(token_ids)] = of_functions[np.concatenate(found)]
        automaton = TokenAutomaton.of(table, classes, language.accepting, self.ends)
        if len(automaton.source) > most_transitions:
            raise TooLarge("transitions", len(automaton.source), most_transitions)
        return automaton


def distinct(
    functions: Int[np.ndarray, "F Q"],
) -> tuple[Int[np.ndarray, "U Q"], Int[np.ndarray, " F"]]:
    """The different functions among some, without the one that is dead everywhere, and which of
    them each is; -1 for the dead one.
    """
    live = np.flatnonzero((functions != DEAD).any(1))
    which = np.full(len(functions), -1)
    if not len(live):
        return functions[:0], which
    rows = np.ascontiguousarray(functions[live])
    whole = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    which[live] = inverse
    return rows[first], which
