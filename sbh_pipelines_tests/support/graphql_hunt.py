"""Random GraphQL requests, made of a real schema: what people, and programs that want more, could send.

Documents have several operations, fragments in fragments, aliases, directives, variables with and without defaults, literals of
every shape; bodies are batches, or no GraphQL at all. Values are drawn from what the site knows, so that a part of it makes sense.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLSchema,
    get_named_type,
    is_leaf_type,
)
from hypothesis import strategies as st

_DEEPEST = 3
_KINDS = ("query", "mutation", "subscription")


class Hunt:
    """Requests for one schema. `words` are texts that mean something there; `wanted` are root fields to draw more often."""

    def __init__(self, schema: GraphQLSchema, words: Sequence[str], wanted: Sequence[str]) -> None:
        self._schema, self._words, self._wanted = schema, words, wanted

    def bodies(self) -> st.SearchStrategy[object]:
        """What is sent as JSON."""
        one = self._requests()
        return st.one_of(
            one, one, one, one, st.lists(one, min_size=1, max_size=3), st.sampled_from([None, [], {}, "x", 7])
        )

    @st.composite
    @staticmethod
    def _drawn(draw: st.DrawFn, hunt: "Hunt") -> dict[str, object]:
        return hunt._request(draw)

    def _requests(self) -> st.SearchStrategy[dict[str, object]]:
        return Hunt._drawn(self)

    def _request(self, draw: st.DrawFn) -> dict[str, object]:
        document = _Document(self, draw)
        operations = [document.operation(number) for number in range(draw(st.sampled_from([1, 1, 1, 2])))]
        text = " ".join([*operations, *document.fragments])
        if draw(st.sampled_from([False] * 4 + [True])):
            text = draw(st.sampled_from(["# {", "\ufeff", ",,", "\n\t"])) + "\n" + text
        name = draw(st.sampled_from([None, None, "Q0", "Q1", "", "other"]))
        return {"query": text, "variables": document.variables, "operationName": name}

    def root(self, kind: str) -> Mapping[str, GraphQLField]:
        of = {"query": self._schema.query_type, "mutation": self._schema.mutation_type}.get(
            kind, self._schema.subscription_type
        )
        return of.fields if of is not None else {}

    def field(self, draw: st.DrawFn, kind: str) -> str:
        names = sorted(self.root(kind))
        liked = [name for name in self._wanted if name in names]
        return draw(st.sampled_from([*names, *liked * 8]))

    def value(self, draw: st.DrawFn, kind: Any, depth: int = 0) -> object:
        """A value of an input type, as JSON."""
        if isinstance(kind, GraphQLNonNull):
            return self.value(draw, kind.of_type, depth)
        if depth and draw(st.sampled_from([False] * 6 + [True])):
            return None
        if isinstance(kind, GraphQLList):
            return [self.value(draw, kind.of_type, depth + 1) for _ in range(draw(st.integers(0, 2)))]
        if isinstance(kind, GraphQLInputObjectType):
            return {
                name: self.value(draw, field.type, depth + 1)
                for name, field in kind.fields.items()
                if isinstance(field.type, GraphQLNonNull) or draw(st.booleans())
            }
        if isinstance(kind, GraphQLEnumType):
            return draw(st.sampled_from(sorted(kind.values)))
        plain = {
            "Int": st.integers(-1, 2_000_000_000),
            "Float": st.floats(allow_nan=False, allow_infinity=False, width=32),
            "Boolean": st.booleans(),
        }
        text = st.sampled_from(self._words)
        if kind.name == "RunConfigData":
            return draw(
                st.one_of(text, st.dictionaries(st.sampled_from(["ops", "resources"]), st.dictionaries(text, text)))
            )
        return draw(plain.get(kind.name, text))


class _Document:
    def __init__(self, hunt: Hunt, draw: st.DrawFn) -> None:
        self._hunt, self._draw = hunt, draw
        self.fragments: list[str] = []
        self.variables: dict[str, object] = {}
        self._declared: dict[int, list[str]] = {}

    def operation(self, number: int) -> str:
        draw = self._draw
        kind = draw(st.sampled_from(["mutation", "mutation", "mutation", "query", "query", "subscription"]))
        declared: list[str] = []
        fields = [self._root_field(kind, declared) for _ in range(draw(st.integers(1, 2)))]
        selection = "{ " + " ".join(fields) + " }"
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            selection = self._wrapped(selection, kind)
        variables = f"({', '.join(declared)})" if declared else ""
        return f"{kind} Q{number}{variables} {selection}"

    def _wrapped(self, selection: str, kind: str) -> str:
        on = {"query": "Query", "mutation": "Mutation", "subscription": "Subscription"}[kind]
        form = self._draw(st.sampled_from(["inline", "untyped", "fragment", "directive"]))
        if form == "fragment":
            name = f"F{len(self.fragments)}"
            self.fragments.append(f"fragment {name} on {on} {selection}")
            return f"{{ ...{name} }}"
        return {
            "inline": f"{{ ... on {on} {selection} }}",
            "untyped": f"{{ __typename ... {selection} }}",
            "directive": f"{{ ... @include(if: true) {selection} }}",
        }[form]

    def _root_field(self, kind: str, declared: list[str]) -> str:
        draw = self._draw
        name = self._hunt.field(draw, kind)
        field = self._hunt.root(kind)[name]
        given = [
            self._argument(n, a, declared)
            for n, a in field.args.items()
            if isinstance(a.type, GraphQLNonNull) or draw(st.booleans())
        ]
        alias = draw(st.sampled_from(["", "", "x: ", "__typename: ", "version: "]))
        arguments = f"({', '.join(given)})" if given else ""
        return f"{alias}{name}{arguments}{self._selection(field.type, 0)}"

    def _argument(self, name: str, argument: GraphQLArgument, declared: list[str]) -> str:
        draw = self._draw
        value = self._hunt.value(draw, argument.type)
        how = draw(st.sampled_from(["variable"] * 4 + ["literal", "default", "missing"]))
        if how == "literal":
            return f"{name}: {_literal(value, argument.type)}"
        variable = f"v{len(self.variables) + len(declared)}"
        kind = str(argument.type)
        if how == "default":
            declared.append(f"${variable}: {kind.rstrip('!')} = {_literal(value, argument.type)}")
        else:
            declared.append(f"${variable}: {kind}")
            if how == "variable":
                self.variables[variable] = value
        return f"{name}: ${variable}"

    def _selection(self, kind: Any, depth: int) -> str:
        named = get_named_type(kind)
        if is_leaf_type(named):
            return ""
        fields = getattr(named, "fields", {})
        plain = [name for name, field in fields.items() if is_leaf_type(get_named_type(field.type)) and not field.args]
        deep = [
            name for name, field in fields.items() if not is_leaf_type(get_named_type(field.type)) and not field.args
        ]
        chosen = self._draw(st.lists(st.sampled_from(plain), max_size=3, unique=True)) if plain else []
        if deep and depth < _DEEPEST and self._draw(st.booleans()):
            name = self._draw(st.sampled_from(deep))
            chosen.append(name + self._selection(fields[name].type, depth + 1))
        members = [] if fields else list(self._types_of(named))
        for member in self._draw(st.lists(st.sampled_from(members), max_size=2, unique=True)) if members else []:
            chosen.append(f"... on {member.name}{self._selection(member, depth + 1)}")
        return " { __typename " + " ".join(chosen) + " }"

    def _types_of(self, union: Any) -> Sequence[Any]:
        return self._hunt._schema.get_possible_types(union)


def _literal(value: object, kind: Any) -> str:
    """A value as GraphQL writes it."""
    bare = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
    if value is None:
        return "null"
    if isinstance(bare, GraphQLList):
        return "[" + ", ".join(_literal(one, bare.of_type) for one in value) + "]"  # type: ignore[attr-defined]
    if isinstance(bare, GraphQLInputObjectType):
        given: Any = value
        return "{" + ", ".join(f"{name}: {_literal(one, bare.fields[name].type)}" for name, one in given.items()) + "}"
    if isinstance(bare, GraphQLEnumType):
        return str(value)
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{name}: {_literal(one, None)}" for name, one in value.items() if name.isidentifier())
            + "}"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
