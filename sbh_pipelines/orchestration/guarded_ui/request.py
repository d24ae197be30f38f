"""A GraphQL request as Dagster would read it, and as it is passed on: made anew from what was read.

There is no second reading that could differ. Mutations are found by the fields of the schema, whatever their aliases,
operations or fragments are called.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    parse,
)

from sbh_pipelines.errors import RequestError

_MOST_TOKENS = 20_000


@dataclass(frozen=True, slots=True)
class Request:
    """A GraphQL request as it was read.

    Attributes:
        query: text of the document.
        variables: values of its variables, by name.
        operation_name: the operation that is asked for, where the document holds several.
        kind: query, mutation or subscription.
        mutations: the root fields of a mutation, in order.
        fields: names of all fields, at any depth, that the document has; of those with fields of their own with ` {}`.
    """

    query: str
    variables: dict[str, object]
    operation_name: str | None
    kind: OperationType
    mutations: tuple[FieldNode, ...]
    fields: frozenset[str]

    def body(self) -> bytes:
        return json.dumps(
            {"query": self.query, "variables": self.variables, "operationName": self.operation_name}
        ).encode()


def read_body(body: bytes) -> Request:
    """Raises RequestError."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise refused("the body is not JSON") from None
    if isinstance(document, list):
        raise refused("several requests in one body are not taken")
    if not isinstance(document, dict):
        raise refused("the body is not a JSON object")
    return read_request(document)


def read_request(document: Mapping[str, object]) -> Request:
    """Raises RequestError."""
    query, variables, name = document.get("query"), document.get("variables"), document.get("operationName")
    if not isinstance(query, str):
        raise refused("it has no `query`")
    if not isinstance(name, str | None):
        raise refused("`operationName` is not a text")
    if isinstance(variables, str):
        try:
            variables = json.loads(variables)
        except (ValueError, RecursionError):
            raise refused("`variables` is not JSON") from None
    if not isinstance(variables, dict | None):
        raise refused("`variables` is not an object")
    try:
        parsed = parse(query, no_location=True, max_tokens=_MOST_TOKENS)
    except GraphQLError as error:
        raise refused(error.message[:300]) from None
    except RecursionError:
        raise refused("it is nested too deeply") from None
    operations = [node for node in parsed.definitions if isinstance(node, OperationDefinitionNode)]
    if not operations:
        raise refused("it holds no operation")
    kinds = {operation.operation for operation in operations}
    if len(operations) > 1 and kinds != {OperationType.QUERY}:
        raise refused("a document with a mutation or subscription may hold one operation only")
    fields = tuple(_root_fields(parsed, operations[0])) if kinds == {OperationType.MUTATION} else ()
    return Request(query, dict(variables or {}), name, kinds.pop(), fields, _names(parsed))


def _names(document: DocumentNode) -> frozenset[str]:
    """Names of the fields of all operations and fragments, used or not. Without recursion: queries may be deep."""
    found: set[str] = set()
    waiting: list[SelectionSetNode | None] = [getattr(node, "selection_set", None) for node in document.definitions]
    while waiting:
        selected = waiting.pop()
        for node in selected.selections if selected is not None else ():
            if isinstance(node, FieldNode):
                found.add(node.name.value + (" {}" if node.selection_set else ""))
            if isinstance(node, FieldNode | InlineFragmentNode):
                waiting.append(node.selection_set)
    return frozenset(found)


def _root_fields(document: DocumentNode, operation: OperationDefinitionNode) -> Iterator[FieldNode]:
    """The root fields of an operation, those within fragments included, each once."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    seen: set[str] = set()

    def fields(selected: SelectionSetNode) -> Iterator[FieldNode]:
        for node in selected.selections:
            if isinstance(node, FieldNode):
                yield node
            elif isinstance(node, InlineFragmentNode):
                yield from fields(node.selection_set)
            elif isinstance(node, FragmentSpreadNode) and node.name.value not in seen:
                seen.add(node.name.value)
                if (fragment := fragments.get(node.name.value)) is not None:
                    yield from fields(fragment.selection_set)

    try:
        return iter(list(fields(operation.selection_set)))
    except RecursionError:
        raise refused("it is nested too deeply") from None


def refused(why: str) -> RequestError:
    return RequestError("This GraphQL request is not taken", why=why)
