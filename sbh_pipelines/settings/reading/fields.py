"""Settings by their names, and what their values look like."""

import difflib
import json
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from sbh_pipelines.settings.section import QualifiedName


@dataclass(frozen=True, slots=True)
class Found:
    """A setting.

    Attributes:
        path: Its names, from the section on.
        kinds: The types that a value may have.
        default: Its default, or what shows a required one, or one that is empty by default; None where there is none.
        may_be_empty: Whether an empty text says something, as its description then tells.
    """

    path: tuple[str, ...]
    kinds: tuple[Any, ...]
    default: Any = None
    may_be_empty: bool = False

    @property
    def structured(self) -> bool:
        """Whether a value is a list or a table, which a variable holds as JSON, and can be nothing else."""
        return str not in self.kinds and any(_is_list(kind) or _is_table(kind) for kind in self.kinds)

    @property
    def section(self) -> bool:
        """Whether it is a whole section."""
        return len(self.path) == 1 and _model(self.kinds[0]) is not None

    @property
    def texts(self) -> bool:
        """Whether a value is a list of texts."""
        return any(_is_list(kind) and _kinds(_item(kind)) in ((str,), (QualifiedName,)) for kind in self.kinds)

    @property
    def tables(self) -> bool:
        """Whether a value is a list of tables."""
        return any(_is_list(kind) and _model(_item(kind)) is not None for kind in self.kinds)

    @property
    def single(self) -> bool:
        """Whether it is a value at the top of the file, in no section."""
        return len(self.path) == 1 and not self.section and not self.tables

    @property
    def description(self) -> str:
        """What a value is, in words."""
        kind = self.kinds[0]
        if _is_list(kind):
            return "a list of tables" if self.tables else "a list"
        if _is_table(kind):
            return "a table"
        if get_origin(kind) is Literal:
            return "one of " + ", ".join(map(str, get_args(kind)))
        names = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
        return names.get(kind, "a text")

    def example(self) -> Any:
        """A value that would be taken."""
        return _example(
            self.kinds, self.default, "https://host.example.com" if self.path[-1].endswith("_url") else "..."
        )


class NoField(Exception):
    """There is no such setting. `meant`: what it may have been meant for, a path each, the likeliest first."""

    def __init__(self, at: tuple[str, ...], meant: Sequence[tuple[str, ...]]) -> None:
        super().__init__(".".join(at))
        self.at, self.meant = at, tuple(meant)


def find(model: type[BaseModel], path: Sequence[Any], *, through_lists: bool = True) -> Found:
    """The setting at a path. Within lists and tables of free names it is what these hold.

    What lies within a single value is that value's. Raises NoField; without `through_lists` also for these two.
    """
    found = Found((), (model,))
    for n, part in enumerate(path):
        before = tuple(map(str, path[:n]))
        inner = next((m for m in map(_model, found.kinds) if m is not None), None)
        if inner is not None:
            if (info := named_fields(inner).get(part)) is None:
                raise NoField((*before, str(part)), _meant(model, before, inner, str(part)))
            empty = "mpty" in (info.description or "")
            found = Found((*before, part), _kinds(info.annotation, info), _default(info), empty)
            continue
        holders = [kind for kind in found.kinds if _is_table(kind) or (_is_list(kind) and through_lists)]
        if not holders and not through_lists:
            raise NoField(tuple(map(str, path)), [before])
        if not holders:
            break
        found = Found((*before, str(part)), _kinds(_item(holders[0])))
    return found


def named_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by the names that the settings have for them: `from`, where Python wants `from_`."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def tables_of(annotation: Any) -> type[BaseModel] | None:
    """What a list of tables at the top, such as `[[copies]]`, holds; None for a section."""
    return _model(_item(annotation)) if _is_list(annotation) else None


def _meant(model: type[BaseModel], before: tuple[str, ...], inner: type[BaseModel], part: str) -> list[tuple[str, ...]]:
    """Close names beside it, else the same name or a close one elsewhere."""
    beside = difflib.get_close_matches(part.lower(), named_fields(inner), n=2, cutoff=0.7)
    every: list[tuple[str, ...]] = [
        (section, name) for section, info in model.model_fields.items() for name in _names(info.annotation)
    ]
    found = [(*before, name) for name in beside]
    if before and part.lower() in model.model_fields and find(model, (part.lower(),)).single:
        found.insert(0, (part.lower(),))
    found += [path for path in every if path[1] == part.lower() and path not in found]
    if found or before:
        return found[:3]
    # A section's name and a field's in one, for want of an underscore.
    joined = {"_".join(path): path for path in every}
    return [joined[name] for name in difflib.get_close_matches(part.lower(), joined, n=2, cutoff=0.85)]


def _names(annotation: Any) -> Sequence[str]:
    found = _model(annotation)
    return () if found is None else tuple(named_fields(found))


def _default(info: FieldInfo) -> Any:
    shown = next(iter(info.examples or ()), None)
    if info.is_required():
        return shown
    default = info.get_default(call_default_factory=True, validated_data={})
    return shown if default == "" and shown is not None else default


def _kinds(annotation: Any, info: FieldInfo | None = None) -> tuple[Any, ...]:
    """The types of a union but None's, in order; what only bounds them is left out."""
    if info is not None and annotation is str and any(getattr(m, "max_length", None) == 200 for m in info.metadata):
        return (QualifiedName,)
    if annotation != QualifiedName and get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = (part for part in get_args(annotation) if part is not type(None))
        return tuple(kind for part in parts for kind in _kinds(part))
    return (annotation,)


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (list, tuple, set, frozenset)


def _is_table(kind: Any) -> bool:
    return get_origin(kind) is dict or _model(kind) is not None


def _model(kind: Any) -> type[BaseModel] | None:
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _item(kind: Any) -> Any:
    """What a list holds, or a table of free names."""
    return get_args(kind)[-1 if get_origin(kind) is dict else 0]


def _example(kinds: Sequence[Any], default: Any = None, text: str = "...") -> Any:
    if default not in (None, "", [], {}) and not isinstance(default, BaseModel | SecretStr):
        return str(default) if isinstance(default, Path) else default
    kind = kinds[0]
    if (model := _model(kind)) is not None:
        required = {n: i for n, i in named_fields(model).items() if i.is_required()}
        shown = required or dict(list(named_fields(model).items())[:1])
        return {name: _example(_kinds(info.annotation, info), _default(info)) for name, info in shown.items()}
    if _is_list(kind):
        return [_example(_kinds(_item(kind)), text="name")]
    if get_origin(kind) is dict:
        return {"name": _example(_kinds(_item(kind)), text="name")}
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if kind == QualifiedName:
        return "public.plans"
    return {bool: True, int: 1, float: 1.0, Path: "/path/to/file"}.get(kind, text)


def as_json(value: Any) -> str:
    """A value as a variable holds it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_toml(value: Any) -> str:
    """A value as the file holds it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)} = {as_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "a").replace("-", "a").isalnum() else json.dumps(name)
