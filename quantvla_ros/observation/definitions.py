# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The message types of a bag: its own definitions first, those of ROS 2 where it has none.

Knows definitions in the .msg and .idl forms through rosbags; knows nothing of files or messages.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rosbags.interfaces import Connection, MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.base import TypesysError
from rosbags.typesys.store import Typestore


def message_types(connections: Iterable[Connection]) -> tuple[Typestore, set[str], list[str]]:
    """Types to read the messages of these connections with.

    Returns:
        The store; the types that neither the bag nor ROS 2 defines; one sentence for each
        definition that cannot be read.
    """
    connections = list(connections)
    types: dict[str, Any] = {}
    faults = []
    for definition, name in dict.fromkeys((c.msgdef, c.msgtype) for c in connections):
        try:
            types |= _parse(definition, name)
        except (TypesysError, ValueError, KeyError, IndexError) as error:
            problem = ' '.join(str(error).split())
            faults.append(f'the definition of {name} cannot be read ({problem})')
    # The bag's own definitions are the truth about its bytes; ROS 2's fill the gaps.
    needed = {c.msgtype for c in connections}
    if not needed <= set(types):
        types = {**get_typestore(Stores.LATEST).fielddefs, **types}
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store, needed - set(store.fielddefs), faults


def _parse(definition: MessageDefinition, name: str) -> dict[str, Any]:
    """Types of a definition that is embedded in a bag, with those that it uses."""
    if definition.format == MessageDefinitionFormat.NONE:
        return {}
    if definition.format == MessageDefinitionFormat.MSG:
        return dict(get_types_from_msg(definition.data, name))
    rule = '=' * 80 + '\n'
    if not definition.data.startswith(f'{rule}IDL: '):
        return dict(get_types_from_idl(definition.data))
    types: dict[str, Any] = {}
    for part in definition.data.split(rule)[1:]:
        types |= get_types_from_idl(part.partition('\n')[2])
    return types
