"""Reading the type annotations of the schema."""

from __future__ import annotations

from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Meta

from dsfast.config.schema import INTEGER_LIMIT, Section

__all__ = [
    "choices_of",
    "hints_of",
    "members_of",
    "metas_of",
    "plain_kinds",
    "sections_of",
    "type_names",
    "unwrapped",
    "upper_bound",
]


@cache
def hints_of(section: type[Section]) -> dict[str, Any]:
    """The annotations of a section by attribute."""
    return get_type_hints(section, include_extras=True)


def unwrapped(annotation: Any) -> tuple[Any, list[Meta]]:
    """The type below ``Annotated``, and what was annotated."""
    if get_origin(annotation) is Annotated:
        kind, *extras = get_args(annotation)
        return kind, [extra for extra in extras if isinstance(extra, Meta)]
    return annotation, []


def members_of(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union; any other type is its only alternative."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def sections_of(kind: Any) -> list[type[Section]]:
    """The sections among the alternatives of a type."""
    return [
        member
        for member in members_of(kind)
        if member is not NoneType and isinstance(member, type) and issubclass(member, Section)
    ]


def choices_of(kind: Any) -> tuple[Any, ...]:
    """The allowed values of a type that lists them."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return (*(member.value for member in kind), *(member.name.lower() for member in kind))
    return get_args(kind) if get_origin(kind) is Literal else ()


def type_names(section: type[Section]) -> tuple[str, ...]:
    """The values of ``type`` that select a section."""
    hint = hints_of(section).get("type")
    return get_args(hint) if get_origin(hint) is Literal else ()


def plain_kinds(annotation: Any) -> set[Any]:
    """The classes of the values that an annotation accepts; with :data:`Any` among them if it takes all."""
    kind = unwrapped(annotation)[0]
    if choices := choices_of(kind):
        return {type(choice) for choice in choices}
    if len(members := members_of(kind)) > 1:
        return set().union(*map(plain_kinds, members))
    if isinstance(kind, type) and issubclass(kind, Section):
        return {dict}
    return {get_origin(kind) or kind}


def metas_of(annotation: Any) -> list[Meta]:
    """What was annotated, also to the alternatives of a union."""
    kind, metas = unwrapped(annotation)
    return metas + [meta for member in get_args(kind) for meta in unwrapped(member)[1]]


def upper_bound(annotation: Any) -> int:
    """The largest allowed integer; where the schema names none, what fits into 32 bits."""
    return next((int(meta.le) for meta in metas_of(annotation) if meta.le is not None), INTEGER_LIMIT)
