"""Random schemas and regular expressions, and random texts of an automaton."""

from __future__ import annotations

import random
from typing import Any

from sampler.constraints.byte_automaton import DEAD, ByteAutomaton
from server.constraints.determinize import automaton_of
from server.constraints.expressions import Expressions
from server.constraints.spec import Spec, expression_of

WORDS = ("cats", "dogs", "the park", 'a "quote"', "naïve", "", "x\ny")
NAMES = ("name", "age", "likes", "happy", "kind", "größe")


def compiled(spec: Spec, states: int = 1 << 14, seconds: float = 20.0) -> ByteAutomaton:
    """The automaton over bytes of a constraint."""
    expressions = Expressions(1 << 18)
    language = expression_of(expressions, spec.kind, spec.value)
    found = automaton_of(expressions, language, states, seconds)
    return ByteAutomaton.of(found.states, found.accepting, found.edges)


def text_of(automaton: ByteAutomaton, chance: random.Random, patience: int = 40) -> str:
    """A random text of a language; after ``patience`` bytes the shortest way to an end."""
    left = distances(automaton)
    state, found = 0, bytearray()
    while True:
        if automaton.accepting[state] and chance.random() < 0.3:
            return found.decode()
        moves = [b for b in range(256) if automaton.following[state, b] != DEAD]
        moves = [b for b in moves if left[automaton.following[state, b]] < 1 << 30]
        if not moves:
            return found.decode()
        if len(found) > patience:
            if automaton.accepting[state]:
                return found.decode()
            moves = [min(moves, key=lambda b: left[automaton.following[state, b]])]
        byte = chance.choice(moves)
        found.append(byte)
        state = int(automaton.following[state, byte])


def distances(automaton: ByteAutomaton) -> list[int]:
    """Fewest bytes from each state to the end of a text."""
    left = [0 if a else 1 << 30 for a in automaton.accepting]
    changed = True
    while changed:
        changed = False
        for state, row in enumerate(automaton.following):
            best = min((left[t] + 1 for t in {*row.tolist()} if t != DEAD), default=1 << 30)
            if best < left[state]:
                left[state], changed = best, True
    return left


def schema(chance: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema of keywords that are enforced, with short texts."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern"]
    kinds += ["format", "range", "types"]
    if depth:
        kinds += 2 * ["object", "array", "tuple", "anyOf", "ref", "oneOf"]
    kind = chance.choice(kinds)
    if kind == "string":
        least = chance.randint(0, 2)
        return {"type": "string", "minLength": least, "maxLength": least + chance.randint(0, 6)}
    if kind == "pattern":
        made = {"type": "string", "pattern": chance.choice(["^[a-c]{1,3}$", "^x?|y$", "q\\d\\w"])}
        return made | ({"maxLength": 8} if chance.random() < 0.5 else {})
    if kind == "format":
        return {"type": "string", "format": chance.choice(["date", "uuid", "ipv4"])}
    if kind == "range":
        whole = chance.random() < 0.5
        low, size = chance.randint(-120, 120), chance.randint(0, 300)
        scale = 1 if whole else chance.choice([1, 10, 100])
        made = {"type": "integer" if whole else "number"}
        first, last = "minimum", "maximum"
        if not whole and size:
            first = chance.choice([first, "exclusiveMinimum"])
            last = chance.choice([last, "exclusiveMaximum"])
        made |= {first: low / scale if scale > 1 else low}
        return made | {last: (low + size) / scale if scale > 1 else low + size}
    if kind == "types":
        others = chance.sample(["integer", "null", "boolean"], 2)
        return {"type": ["string", *others], "maxLength": 4}
    if kind == "enum":
        values = [*WORDS, 1, 2.5, True, None, [1, "a"], {"a": 1}]
        return {"enum": chance.sample(values, chance.randint(1, 4))}
    if kind == "const":
        return {"const": chance.choice([*WORDS, -3, None, {"b": [True]}])}
    if kind == "object":
        names = chance.sample(NAMES, chance.randint(0, 4))
        made = {"type": "object", "properties": {n: schema(chance, depth - 1) for n in names}}
        made["required"] = [n for n in names if chance.random() < 0.6]
        if chance.random() < 0.7:
            made["additionalProperties"] = False
        return made
    if kind == "array":
        least = chance.randint(0, 2)
        most = least + chance.randint(0, 2)
        items = schema(chance, depth - 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": most}
    if kind == "tuple":
        parts = [schema(chance, depth - 1) for _ in range(chance.randint(1, 2))]
        return {"type": "array", "prefixItems": parts, "minItems": len(parts), "items": False}
    if kind == "anyOf":
        return {"anyOf": [schema(chance, depth - 1) for _ in range(2)]}
    if kind == "oneOf":
        return {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}]}
    if kind == "ref":
        return {"$ref": "#/$defs/part", "description": "elsewhere"}
    return {"type": kind}


def whole_schema(chance: random.Random) -> dict[str, Any]:
    """A schema with its definitions."""
    return {**schema(chance), "$defs": {"part": schema(chance, 0)}}


def expression(chance: random.Random, depth: int = 3) -> str:
    """A regular expression that Python reads alike."""
    atoms = ["a", "b", "é", ".", "[ab]", "[^a]", "\\d", "\\w", "\\.", "[a-cx-z]", "\\u00e9", "x"]
    if not depth:
        return chance.choice(atoms)
    kind = chance.random()
    inner = expression(chance, depth - 1)
    if kind < 0.3:
        return inner + expression(chance, depth - 1)
    if kind < 0.5:
        return f"(?:{inner}|{expression(chance, depth - 1)})"
    if kind < 0.7:
        return f"({inner}){chance.choice(['*', '+', '?', '{2}', '{1,3}', '{2,}', '*?'])}"
    return inner
