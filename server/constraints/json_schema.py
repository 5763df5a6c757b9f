"""JSON schemas as regular expressions. A keyword that is not enforced is refused by name.

What is written is a part of what a schema allows: objects have the declared properties only, in
the order of their declaration, and no blanks but one after a colon or a comma.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from server.constraints.expressions import Expressions
from server.constraints.formats import FORMATS
from server.constraints.json_values import LONGEST, Json
from server.constraints.regex import BadRegex, parsed

ABOUT = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$schema", "$id", "$comment", "$defs", "definitions", "discriminator", "example"}
)
"""Keywords that describe a value and do not restrict it."""
OF_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""Keywords that are enforced, by type."""
WITHOUT_EFFECT = {"uniqueItems": False, "minProperties": 0, "minContains": 1, "nullable": False}
"""Keywords that are not enforced, and the value at which they restrict nothing."""
CHOICES = ("enum", "const", "anyOf", "oneOf", "allOf", "$ref")
DEEPEST = 64  # schemas within each other
LONGEST_BOUND = 30  # digits of a bound of numbers
MOST_COUNT = 1 << 16
LARGEST = Decimal(10**LONGEST - 1)
"""Greatest number where a schema has no bound."""


class BadSchema(ValueError):
    """A schema that cannot be compiled, and why; the message names the place."""


def schema_expression(expressions: Expressions, schema: Any) -> int:
    """The JSON texts of a schema.

    Raises:
        BadSchema: it is no schema, or has a keyword that is not enforced.
        TooComplex: of the expressions.
    """
    return _Compiler(expressions, schema).value(schema, "the schema", 0)


class _Compiler:
    def __init__(self, expressions: Expressions, root: Any) -> None:
        self._e, self._json, self._root = expressions, Json(expressions), root
        self._under: list[str] = []
        self._known: dict[str, int] = {}

    def value(self, schema: Any, at: str, depth: int) -> int:
        if depth > DEEPEST:
            raise BadSchema(f"{at[:200]} is more than {DEEPEST} schemas deep")
        if schema is True:
            return self._json.value()
        if schema is False:
            raise BadSchema(f"{at} is false, which no value fits")
        if not isinstance(schema, dict):
            raise BadSchema(f"{at} must be an object or true")
        given = {
            key: value
            for key, value in schema.items()
            if key not in ABOUT and not _has_no_effect(key, value)
        }
        if not given:
            return self._json.value()
        chosen = [key for key in CHOICES if key in given]
        if chosen:
            return self._chosen(chosen[0], given, at, depth)
        types = given.pop("type", None)
        for key in given:
            if not any(key in own for own in OF_TYPE.values()):
                raise BadSchema(f"{at}: {_shown(key)} is not supported")
        if types is None:
            fits = [t for t in ("object", "array", "string") if OF_TYPE[t] & given.keys()]
            if "minimum" in given or "maximum" in given or not fits:
                raise BadSchema(f"{at}: type is missing")
            types = fits
        names = [types] if isinstance(types, str) else types
        if not isinstance(names, list) or not names or not all(map(_is_type, names)):
            raise BadSchema(f"{at}: type must be one of {', '.join(OF_TYPE)}, or a list of them")
        known = frozenset().union(*(OF_TYPE[name] for name in names))
        for key in given:
            if key not in known:
                raise BadSchema(f"{at}: {_shown(key)} is not supported with type {types}")
        makers = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": lambda *args: self._number(*args, whole=True),
            "number": self._number,
            "boolean": lambda *_: self._e.any_of([self._e.text("true"), self._e.text("false")]),
            "null": lambda *_: self._e.text("null"),
        }
        return self._e.any_of([makers[name](given, at, depth) for name in names])

    def _chosen(self, key: str, given: dict[str, Any], at: str, depth: int) -> int:
        """A schema that names values, or other schemas."""
        others = given.keys() - {key} - ({"type"} if key in ("enum", "const") else set())
        if others:
            raise BadSchema(f"{at}: {_shown(min(others))} is not supported beside {key}")
        value = given[key]
        if key == "$ref":
            return self._reference(value, at, depth)
        if key == "const":
            return self._literals([value], given, f"{at}.const")
        if not isinstance(value, list) or not value:
            raise BadSchema(f"{at}: {key} must be a list that is not empty")
        if key == "enum":
            return self._literals(value, given, f"{at}.enum")
        if key == "allOf" and len(value) > 1:
            raise BadSchema(f"{at}: allOf of more than one schema is not supported")
        if key == "oneOf":
            self._check_apart(value, at)
        parts = [self.value(part, f"{at}.{key}[{n}]", depth + 1) for n, part in enumerate(value)]
        return self._e.any_of(parts)

    def _literals(self, values: Sequence[Any], given: dict[str, Any], at: str) -> int:
        types = given.get("type")
        names = [types] if isinstance(types, str) else types
        if names is not None:
            if not isinstance(names, list) or not all(map(_is_type, names)):
                raise BadSchema(f"{at}: type must be one of {', '.join(OF_TYPE)}")
            values = [v for v in values if any(_is_of(v, name) for name in names)]
            if not values:
                raise BadSchema(f"{at}: no value is of type {types}")
        try:
            return self._e.any_of([self._json.literal(value) for value in values])
        except ValueError as error:
            if isinstance(error, UnicodeError):
                raise BadSchema(f"{at} holds what is no text") from None
            raise

    def _reference(self, name: Any, at: str, depth: int) -> int:
        if not isinstance(name, str) or not (name == "#" or name.startswith("#/")):
            raise BadSchema(f"{at}: $ref must begin with #/, got {_shown(name)}")
        if name in self._under or name == "#":
            raise BadSchema(f"{at}: $ref {_shown(name)} refers to itself, which is not supported")
        if name not in self._known:
            self._under.append(name)
            self._known[name] = self.value(self._target(name, at), name, depth + 1)
            self._under.pop()
        return self._known[name]

    def _target(self, name: Any, at: str) -> Any:
        """The schema that a reference names."""
        if not isinstance(name, str) or not name.startswith("#/"):
            return None
        found = self._root
        for part in name[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or key not in found:
                raise BadSchema(f"{at}: $ref {_shown(name)} is not in the schema")
            found = found[key]
        return found

    def _check_apart(self, schemas: Sequence[Any], at: str) -> None:
        """Refuse a ``oneOf`` unless no value can fit two of its schemas."""
        kinds = [self._kinds(schema, at) for schema in schemas]
        for n, one in enumerate(kinds):
            for other in kinds[:n]:
                if not _apart(one, other):
                    raise BadSchema(
                        f"{at}: oneOf is only supported for schemas of different types, values or "
                        "values of a required property; use anyOf"
                    )

    def _kinds(self, schema: Any, at: str) -> tuple[set[str] | None, dict[str, list[Any]]]:
        """Types that a schema allows, and values that it names, of itself ("") and of required
        properties.
        """
        for _ in range(DEEPEST):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = self._target(schema["$ref"], at)
        if not isinstance(schema, dict):
            return None, {}
        named: dict[str, list[Any]] = {}
        properties, required = schema.get("properties"), schema.get("required", [])
        own = {"": schema}
        if isinstance(properties, dict) and isinstance(required, list):
            own |= {n: p for n, p in properties.items() if n in required and isinstance(p, dict)}
        for name, part in own.items():
            values = [part["const"]] if "const" in part else part.get("enum")
            if isinstance(values, list):
                named[name] = values
        types = schema.get("type")
        names = [types] if isinstance(types, str) else types
        known = isinstance(names, list) and all(map(_is_type, names))
        return {*names} if known and names else None, named

    # Types ---------------------------------------------------------------------------------------

    def _object(self, given: dict[str, Any], at: str, depth: int) -> int:
        properties, required = given.get("properties", {}), given.get("required", [])
        if not isinstance(properties, dict):
            raise BadSchema(f"{at}: properties must be an object")
        if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
            raise BadSchema(f"{at}: required must be a list of names")
        for name in required:
            if name not in properties:
                raise BadSchema(f"{at}: required names {_shown(name)}, which is no property")
        more = given.get("additionalProperties", True)
        if not properties:
            if more is False:
                return self._e.text("{}")
            if more is True or more == {}:
                return self._json.object()
            value = self.value(more, f"{at}.additionalProperties", depth + 1)
            return self._json.mapping(self._json.quoted(self._json.characters()), value)
        if not isinstance(more, bool):
            self.value(more, f"{at}.additionalProperties", depth + 1)
        members = [
            self._json.member(name, self.value(schema, f"{at}.{_shown(name)}", depth + 1))
            for name, schema in properties.items()
        ]
        needed = {*required}
        return self._json.braced(self._members(members, [name in needed for name in properties]))

    def _members(self, members: list[int], needed: list[bool]) -> int:
        """Members in order with commas between; those that are not needed may be missing."""
        comma, e = self._json.comma, self._e
        after = [e.empty]  # from the right: what follows each member
        for member, must in zip(reversed(members), reversed(needed), strict=True):
            part = e.sequence([comma, member])
            after.append(e.sequence([part if must else e.optional(part), after[-1]]))
        after.reverse()
        if True in needed:
            first = needed.index(True)
            before = [e.optional(e.sequence([m, comma])) for m in members[:first]]
            return e.sequence([*before, members[first], after[first + 1]])
        # without a needed member, any may be the first
        starts = [e.sequence([m, after[n + 1]]) for n, m in enumerate(members)]
        return e.any_of([e.empty, *starts])

    def _array(self, given: dict[str, Any], at: str, depth: int) -> int:
        least, most = self._counts(given, at, "minItems", "maxItems")
        first = given.get("prefixItems", [])
        if not isinstance(first, list):
            raise BadSchema(f"{at}: prefixItems must be a list")
        items = given.get("items", True)
        fixed = [
            self.value(part, f"{at}.prefixItems[{n}]", depth + 1) for n, part in enumerate(first)
        ]
        json, e = self._json, self._e
        item = e.never if items is False else self.value(items, f"{at}.items", depth + 1)
        if not fixed:
            if item == e.never and least:
                raise BadSchema(f"{at}: minItems is {least} and items is false")
            return json.bracketed(json.many(item, least, 0 if item == e.never else most))
        found = []
        for n in range(least, len(fixed)):
            if most is None or n <= most:
                found.append(json.joined(fixed[:n]))
        if most is None or most >= len(fixed):
            more = e.repeat(
                e.sequence([json.comma, item]),
                max(0, least - len(fixed)),
                None if most is None else most - len(fixed),
            )
            found.append(e.sequence([json.joined(fixed), more]))
        return json.bracketed(e.any_of(found))

    def _string(self, given: dict[str, Any], at: str, depth: int) -> int:
        least, most = self._counts(given, at, "minLength", "maxLength")
        parts = []
        for key in ("pattern", "format"):
            source = given.get(key)
            if source is None:
                continue
            if not isinstance(source, str):
                raise BadSchema(f"{at}: {key} must be a text")
            if key == "format":
                if source not in FORMATS:
                    known = ", ".join(FORMATS)
                    raise BadSchema(f"{at}: format {_shown(source)} is not one of {known}")
                form = FORMATS[source]
                source = f"^{form.source}$"
                if least <= form.shortest:
                    least = 0
                if most is not None and most >= form.longest:
                    most = None
            try:
                parts.append(parsed(self._e, source, self._json.one_of, everywhere=True))
            except BadRegex as error:
                raise BadSchema(f"{at}: {key} {error}") from None
        if not parts or least or most is not None:
            parts.append(self._json.characters(least, most))
        content = parts[0]
        for part in parts[1:]:
            content = self._e.both(content, part)
        return self._json.quoted(content)

    def _number(self, given: dict[str, Any], at: str, depth: int, whole: bool = False) -> int:
        low, low_open = self._bound(given, at, "minimum", "exclusiveMinimum", max)
        high, high_open = self._bound(given, at, "maximum", "exclusiveMaximum", min)
        if low is None and high is None:
            return self._json.integer() if whole else self._json.number()
        if high is None and low is not None and low < LARGEST:
            high, high_open = LARGEST, False
        if low is None and high is not None and high > -LARGEST:
            low, low_open = -LARGEST, False
        found = self._json.between(low, high, (low_open, high_open), whole)
        if not whole:  # more digits could be rounded to a number beyond a bound
            bounds = [bound for bound in (low, high) if bound is not None]
            before = max(len(str(abs(int(bound)))) for bound in bounds)
            asked = max(-int(bound.as_tuple().exponent) for bound in bounds)
            digits = max(1, LONGEST - before, asked)
            found = self._e.both(found, self._json.number(None, digits))
        if found == self._e.never:
            raise BadSchema(f"{at}: no number lies between {low} and {high}")
        return found

    def _bound(
        self, given: dict[str, Any], at: str, name: str, exclusive: str, tighter: Any
    ) -> tuple[Decimal | None, bool]:
        """A bound of numbers, and whether it is itself excluded."""
        found = []
        for key, opens in ((name, False), (exclusive, True)):
            if (value := given.get(key)) is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise BadSchema(f"{at}: {key} must be a number")
            bound = Decimal(str(value))
            if not bound.is_finite() or len(format(bound, "f").strip("-")) > LONGEST_BOUND:
                raise BadSchema(f"{at}: {key} has more than {LONGEST_BOUND} digits")
            found.append((bound, opens))
        if not found:
            return None, False
        bound = tighter(value for value, _ in found)
        return bound, any(opens for value, opens in found if value == bound)

    def _counts(
        self, given: dict[str, Any], at: str, low: str, high: str
    ) -> tuple[int, int | None]:
        least, most = given.get(low), given.get(high)
        for key, value in ((low, least), (high, most)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise BadSchema(f"{at}: {key} must be an integer from 0 on")
            if value > MOST_COUNT:
                raise BadSchema(f"{at}: {key} is {value}; the limit is {MOST_COUNT}")
        if most is not None and (least or 0) > most:
            raise BadSchema(f"{at}: {low} is {least} and {high} {most}")
        return least or 0, most


def _has_no_effect(key: str, value: Any) -> bool:
    return (
        key in WITHOUT_EFFECT
        and value == WITHOUT_EFFECT[key]
        and type(value) is type(WITHOUT_EFFECT[key])
    )


def _is_type(name: Any) -> bool:
    """Whether this names a type."""
    return isinstance(name, str) and name in OF_TYPE


def _is_of(value: Any, name: str) -> bool:
    """Whether a value is of a type of JSON Schema."""
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "null": type(None)}
    if name == "boolean":
        return isinstance(value, bool)
    if name in ("integer", "number"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (name == "number" or value == int(value))
    return isinstance(value, kinds[name])


def _apart(
    one: tuple[set[str] | None, dict[str, list[Any]]],
    other: tuple[set[str] | None, dict[str, list[Any]]],
) -> bool:
    """Whether no value fits both of two schemas, by ``_kinds``."""
    types, others = one[0], other[0]
    if types is not None and others is not None:
        wide = ({*names, "number"} if "integer" in names else names for names in (types, others))
        if set.isdisjoint(*wide):
            return True
    both = one[1].keys() & other[1].keys()
    return any(all(a != b for a in one[1][n] for b in other[1][n]) for n in both)


def _shown(name: Any) -> str:
    """A name within an error, not too long."""
    text = repr(name)
    return text if len(text) <= 64 else text[:61] + "...'"
