# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Strict reading of a YAML file: every value is taken with its type, every fault with its line.

Knows YAML and how to word a fault; knows nothing of what a contract holds (see `load`). It walks
PyYAML's node tree, which keeps line numbers and duplicate keys; plain loading loses both.
"""
from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, NoReturn, TypeVar

import yaml

from quantvla_ros.errors import ContractError, QuantVLAError

_KINDS = {'str': 'text', 'int': 'the whole number', 'float': 'the number', 'bool': 'the value',
          'null': 'nothing', 'timestamp': 'the date', 'map': 'a mapping', 'seq': 'a list'}

E = TypeVar('E', bound=Enum)


class Place:
    """One value of the file, with the way to it from the top.

    Every reader method returns the checked value or raises an error of the form
    `file:line: place.in.file: expected ..., found ...; what to do`. Other files than contracts
    are read by a subclass with its own error, document and manual.
    """

    error: type[QuantVLAError] = ContractError
    document = 'a contract'
    manual = 'docs/contract.md'

    def __init__(self, node: yaml.Node, path: str, source: str) -> None:
        self.node = node
        self.path = path
        self.source = source

    @classmethod
    def top(cls, text: str, source: str) -> Place:
        """The whole document."""
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            problem = ' '.join(str(error.problem or error.context).split())
            raise cls.error(
                f'{source}:{line}: expected valid YAML, found a fault ({problem}); '
                'check indentation, colons and quotes here and one line above'
            ) from None
        except yaml.YAMLError as error:
            problem = ' '.join(str(error).split())
            raise cls.error(
                f'{source}:1: expected valid YAML, found a fault ({problem}); save it as UTF-8 text'
            ) from None
        except RecursionError:
            raise cls.error(
                f'{source}:1: expected {cls.document}, found lists nested without end; '
                f'see {cls.manual}'
            ) from None
        if node is None:
            raise cls.error(
                f'{source}:1: expected {cls.document}, found an empty file; see {cls.manual}'
            )
        return cls(node, '', source)

    def fail(self, expected: str, found: str | None = None, remedy: str = '') -> NoReturn:
        """Raise the one clear line for this place."""
        raise self.error(self._line(self.node, self.path, expected, found, remedy))

    def _line(
        self, node: yaml.Node, path: str, expected: str, found: str | None, remedy: str
    ) -> str:
        text = f'{self.source}:{node.start_mark.line + 1}: {path or "the file"}: '
        text += f'expected {expected}, found {self.found() if found is None else found}'
        return f'{text}; {remedy}' if remedy else text

    def found(self) -> str:
        """What stands here, in words."""
        kind = _KINDS.get(self._tag, f'a value of type {self.node.tag}')
        if not isinstance(self.node, yaml.ScalarNode) or self._tag == 'null':
            return kind
        value = self.node.value if len(self.node.value) <= 40 else self.node.value[:40] + '...'
        return f'{kind} {value!r}' if self._tag in ('str', 'timestamp') else f'{kind} {value}'

    @property
    def _tag(self) -> str:
        return self.node.tag.removeprefix('tag:yaml.org,2002:')

    @property
    def is_null(self) -> bool:
        """Whether the file says null here."""
        return self._tag == 'null'

    def items(self) -> dict[str, Place]:
        """The mapping here by key, in the order of the file; a key given twice is a fault."""
        if not isinstance(self.node, yaml.MappingNode):
            self.fail('a mapping (key: value)')
        places: dict[str, Place] = {}
        first: dict[str, int] = {}
        for key, value in self.node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ''
            if key.tag != 'tag:yaml.org,2002:str' or not name:
                type(self)(key, self._child(name or '?'), self.source).fail(
                    'a name as the key', remedy='put it in quotes if it is meant as a name'
                )
            if name in places:
                raise self.error(self._line(
                    key, self._child(name), 'each key once',
                    f'{name!r} a second time (first in line {first[name]})', 'remove one of them',
                ))
            places[name] = type(self)(value, self._child(name), self.source)
            first[name] = key.start_mark.line + 1
        return places

    def fields(self, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Place]:
        """The mapping here, which has all `required` keys and none but these and `optional`."""
        known = [*required, *optional]
        places = self.items()
        for name in places:
            if name not in known:
                key = next(k for k, _ in self.node.value if k.value == name)
                raise self.error(self._line(
                    key, self._child(name), f'one of the keys {", ".join(known)}',
                    f'the unknown key {name!r}', suggest(name, known) or 'remove it',
                ))
        for name in required:
            if name not in places:
                present = ', '.join(places) or 'no key'
                self.fail(f'the key {name!r}', present, f'add {name}; see {self.manual}')
        return places

    def sequence(self) -> list[Place]:
        """The elements of the list here."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.fail('a list', remedy='write [a, b] or one "- item" per line')
        return [
            type(self)(value, f'{self.path}[{index}]', self.source)
            for index, value in enumerate(self.node.value)
        ]

    def names(self, what: str) -> tuple[str, ...]:
        """A list of different names, at least one."""
        names: list[str] = []
        for entry in self.sequence():
            name = entry.text(what)
            if name in names:
                entry.fail('each name once', f'{name!r} a second time', 'remove one of them')
            names.append(name)
        if not names:
            self.fail(f'at least one of {what}', 'an empty list')
        return tuple(names)

    def text(self, what: str = 'text') -> str:
        """Text that is not empty."""
        if self._tag != 'str':
            # on, off, yes, no and bare numbers are not text in YAML.
            scalar = isinstance(self.node, yaml.ScalarNode) and not self.is_null
            self.fail(what, remedy='put it in quotes' if scalar else '')
        if not self.node.value.strip():
            self.fail(what, 'empty text', 'write it out')
        return self.node.value

    def number(self, what: str = 'a number') -> float:
        """A finite number."""
        if self._tag not in ('int', 'float'):
            remedy = 'write digits without unit, a SI value such as 0.05'
            if self._tag == 'str' and _is_exponent(self.node.value):
                remedy = 'YAML 1.1 wants a point and a sign in such a number: write 1.0e-3 or 0.001'
            self.fail(what, remedy=remedy)
        value = float(self._scalar(what))
        if not math.isfinite(value):
            self.fail(what, self.node.value, 'give a finite number')
        return value

    def between(self, low: float, high: float, unit: str, *, open_low: bool = True) -> float:
        """A number in (low, high], or [low, high] where `open_low` is False."""
        what = f'a number in {"(" if open_low else "["}{low:g}, {high:g}] {unit}'.rstrip()
        value = self.number(what)
        if not low <= value <= high or (open_low and value == low):
            self.fail(what)
        return value

    def integer(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        what = f'a whole number in [{low}, {high}]'
        if self._tag != 'int':
            self.fail(what)
        value = int(self._scalar(what))
        if not low <= value <= high:
            self.fail(what)
        return value

    def boolean(self) -> bool:
        """True or false."""
        if self._tag != 'bool':
            self.fail('true or false')
        return bool(self._scalar('true or false'))

    def choice(self, values: Iterable[str], remedy: str = '') -> str:
        """One of `values`."""
        allowed = list(values)
        listed = allowed[0] if len(allowed) == 1 else f'one of {", ".join(allowed)}'
        value = self.text(listed)
        if value not in allowed:
            self.fail(listed, remedy=suggest(value, allowed) or remedy)
        return value

    def member(self, kind: type[E]) -> E:
        """The member of an enum that the text here names by value."""
        return kind(self.choice([member.value for member in kind]))

    def checked(self, check: Callable[[str], str | None], what: str) -> str:
        """Text that `check` has nothing against; it returns what to do otherwise."""
        value = self.text(what)
        if remedy := check(value):
            self.fail(what, remedy=remedy)
        return value

    def _scalar(self, what: str) -> Any:
        try:
            return yaml.SafeLoader('').construct_object(self.node)
        except (ValueError, KeyError):  # an explicit tag on something else: !!int abc
            self.fail(what, remedy='remove the tag')

    def _child(self, name: str) -> str:
        return f'{self.path}.{name}' if self.path else name


def suggest(name: str, known: Iterable[str]) -> str:
    """'did you mean ...?', or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean {near[0]!r}?' if near else ''


def _is_exponent(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return 'e' in text.lower()
