# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The manifest of an artifact: what it is, what it was made from, and the hash of every part.

Knows the layout of manifest.json and checks it as the work of a stranger; knows nothing of tensors,
models or files on disk beyond their names.
"""
from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantvla_ros.errors import ArtifactError

MANIFEST = 'manifest.json'
WEIGHTS = 'model.safetensors'
FORMAT = 'quantvla_ros artifact'
VERSION = 2
LARGEST_MANIFEST = 64 * 2**20  # bytes; a full pi0.5 needs 0.3 MB

_HASH = re.compile(r'[0-9a-f]{64}')
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]{0,254}')  # a plain file name, none hidden

# What must be there, with its type. A list holds any number of one kind, a dict with the key '*'
# any number of entries. Further keys are refused: an older reader would not act on them.
_SCHEMA: dict[str, Any] = {
    'format': str,
    'version': int,
    'artifact_id': str,
    'created': str,
    'versions': {'*': str},
    'precision': str,
    'model': {'type': str, 'chunk_size': int, 'execute_steps': int},
    'layout': {'name': str, 'layers': [str]},
    'recipe': {'name': str, 'text': str},
    'contract': {
        'robot': str,
        'hash': str,
        'slots': [str],
        'state_names': [str],
        'action_names': [str],
        'control_period': float,
    },
    'tokenizer': str,
    'normalization': [str],
    'files': {'*': {'bytes': int, 'sha256': 'hash'}},
    'tensors': {'*': {'dtype': str, 'shape': [int], 'sha256': 'hash'}},
    'float32_tensors': [str],
    'bytes': {'float': int, 'quantized': int},
    'corrections': {
        'alpha': [[float]],
        'beta': [float],
        'beta_mlp': [float],
        'interface': {'*': float},
        'notes': [str],
    },
    'calibration': {
        'seed': int,
        'samples': int,
        'held_out': int,
        'observations': [{'episode': str, 'instruction': str, 'found': int, 'used': int}],
        'checkpoint': {'*': 'hash'},
        'bags': {'*': 'hash'},
        'coverage': {
            'frames': {'found': int, 'constant': int, 'used': int},
            'groups': [
                {
                    'instruction': str,
                    'episode': str,
                    'phase': str,
                    'found': int,
                    'constant': int,
                    'used': int,
                }
            ],
            'messages': int,
            'broken': [{'bag': str, 'topic': str, 'reason': str, 'count': int}],
            'instants': int,
            'refused': [{'bag': str, 'topic': str, 'reason': str, 'count': int}],
            'bags_left_out': {'*': str},
            'faults': [str],
            'cautions': [{'kind': str, 'text': str}],
        },
        'error': {
            '*': {'rms': float, 'largest': float, 'relative': float},
        },
    },
}


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Attributes:
        content: the JSON; see docs/quantization.md for every key.
    """

    content: Mapping[str, Any]

    @property
    def artifact_id(self) -> str:
        """Short hash of everything that the artifact is; not of when and with what it was made."""
        return self.content['artifact_id']

    @property
    def model(self) -> str:
        """Type of the network, as 'pi05'."""
        return self.content['model']['type']

    @property
    def precision(self) -> str:
        """Bits of weights and activations, as 'w4a8'."""
        return self.content['precision']

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths of the quantized layers."""
        return tuple(self.content['layout']['layers'])

    @property
    def slots(self) -> tuple[str, ...]:
        """Camera slots in the network's order."""
        return tuple(self.content['contract']['slots'])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state's dimensions, in order."""
        return tuple(self.content['contract']['state_names'])

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action's dimensions, in order."""
        return tuple(self.content['contract']['action_names'])

    @property
    def control_period(self) -> float:
        """Seconds between two actions of a chunk."""
        return self.content['contract']['control_period']

    @property
    def chunk_size(self) -> int:
        """Actions in a chunk."""
        return self.content['model']['chunk_size']

    @property
    def execute_steps(self) -> int:
        """Actions to run of each chunk before the next."""
        return self.content['model']['execute_steps']

    @property
    def float_bytes(self) -> int:
        """Bytes of the float policy's weights, as the checkpoint stores them."""
        return self.content['bytes']['float']

    @property
    def quantized_bytes(self) -> int:
        """Bytes of the artifact's weights."""
        return self.content['bytes']['quantized']


def content_id(content: Mapping[str, Any]) -> str:
    """The short hash that names an artifact."""
    passing = ('artifact_id', 'created', 'versions')
    kept = {key: value for key, value in content.items() if key not in passing}
    text = json.dumps(kept, sort_keys=True, separators=(',', ':'), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_manifest(directory: Path) -> Manifest:
    """Read and check an artifact's manifest, without looking at its other files.

    Raises:
        ArtifactError: none there, not a manifest, another format version, or changed by hand.
    """
    path = directory / MANIFEST
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            found = 'a link' if path.is_symlink() else 'something else'
            raise ArtifactError(f'{path}: expected a regular file, found {found}; copy it anew')
        size = path.stat().st_size
        if size > LARGEST_MANIFEST:
            raise ArtifactError(
                f'{path}: expected at most {LARGEST_MANIFEST} bytes, found {size}; '
                f'this is not a manifest'
            )
        content = json.loads(
            path.read_text(encoding='utf-8'),
            parse_constant=_no_constant,
            object_pairs_hook=_each_once,
        )
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f'{path}: expected a quantized artifact, found no manifest; '
            f'make one with: python -m quantvla_ros calibrate'
        ) from None
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ArtifactError(f'{path}: expected JSON, cannot read it ({error})') from None
    _check_version(path, content)
    fault = _fault(content, _SCHEMA, '')
    if fault:
        raise ArtifactError(f'{path}: {fault}; the artifact is damaged, make it anew')
    for name in (*content['files'], content['tokenizer'], *content['normalization']):
        if not _NAME.fullmatch(name) or name not in content['files']:
            raise ArtifactError(
                f'{path}: files: expected plain names of files beside the manifest, found '
                f'{name!r}; do not use this artifact'
            )
    found = content_id(content)
    if found != content['artifact_id']:
        raise ArtifactError(
            f'{path}: expected artifact_id {found} by its content, found '
            f'{content["artifact_id"]!r}; the manifest was changed, make the artifact anew'
        )
    return Manifest(content)


def _check_version(path: Path, content: Any) -> None:
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ArtifactError(f'{path}: expected format {FORMAT!r}, found something else')
    if content.get('version') != VERSION:
        raise ArtifactError(
            f'{path}: expected format version {VERSION}, found {content.get("version")!r}; '
            f'use the quantvla_ros that made it, or make it anew'
        )


def _no_constant(text: str) -> float:
    raise ValueError(f'{text} is not JSON')


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal keys counts: what one checks, another would use."""
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f'the key {twice[:60]!r} is there twice')
    return content


def _fault(value: Any, schema: Any, place: str) -> str | None:
    """The first place where a value does not fit its schema, in words; None: it fits."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return _expected(place, 'an object', value)
        if '*' in schema:
            pairs = [(key, schema['*']) for key in value]
        else:
            if set(value) != set(schema):
                lacking = ', '.join(sorted(set(schema) - set(value))) or 'nothing'
                spare = ', '.join(sorted(set(value) - set(schema))) or 'nothing'
                return f'{place or "top"}: {lacking} lacking, {spare} unknown'
            pairs = list(schema.items())
        faults = (_fault(value[key], inner, f'{place}.{key}'.lstrip('.')) for key, inner in pairs)
        return next((fault for fault in faults if fault), None)
    if isinstance(schema, list):
        if not isinstance(value, list):
            return _expected(place, 'a list', value)
        faults = (_fault(item, schema[0], f'{place}[{i}]') for i, item in enumerate(value))
        return next((fault for fault in faults if fault), None)
    if schema == 'hash':
        good = isinstance(value, str) and _HASH.fullmatch(value) is not None
        return None if good else _expected(place, 'a SHA-256 in hexadecimal', value)
    if schema is int:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return None if good else _expected(place, 'a whole number, not negative', value)
    if schema is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = good and math.isfinite(value)
        return None if good else _expected(place, 'a finite number', value)
    return None if isinstance(value, schema) else _expected(place, 'text', value)


def _expected(place: str, what: str, value: Any) -> str:
    shown = repr(value)
    return f'{place}: expected {what}, found {shown if len(shown) <= 60 else shown[:60] + "..."}'
