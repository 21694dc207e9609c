# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attacks with the weights' file: cut off, a header that lies, lengths beyond the file."""
import json
import os
import pickle
import struct

import pytest
from artifact_samples import LAYER, refused, rewrite_header

from quantvla_ros.quantization.manifest import WEIGHTS

TENSOR = LAYER + '.weight_packed'


def test_cut_off_weights_are_refused_at_any_length(artifact):
    data = (artifact / WEIGHTS).read_bytes()
    for length in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        (artifact / WEIGHTS).write_bytes(data[:length])
        refused(artifact, 'cut off|cannot be read|expected safetensors')
    (artifact / WEIGHTS).write_bytes(data + b'\0')
    refused(artifact, 'not the file that was written')


def test_a_hole_of_terabytes_is_not_read(artifact):
    os.truncate(artifact / WEIGHTS, 2**40)  # sparse: takes no space
    refused(artifact, 'not the file that was written')


def test_a_header_length_beyond_the_file_is_refused(artifact):
    data = (artifact / WEIGHTS).read_bytes()
    for length in (2**63 - 1, 2**63, 2**64 - 1, 2**32, len(data), len(data) - 8, 1, 0):
        (artifact / WEIGHTS).write_bytes(struct.pack('<Q', length) + data[8:])
        refused(artifact, 'header')


def test_a_header_of_a_hundred_megabytes_is_not_read(artifact):
    data = (artifact / WEIGHTS).read_bytes()
    length = struct.unpack('<Q', data[:8])[0]
    with (artifact / WEIGHTS).open('wb') as file:
        file.write(struct.pack('<Q', 101 * 2**20))
        file.seek(8 + 101 * 2**20)  # sparse
        file.write(data[8 + length :])
    refused(artifact, 'header')


def swap_names(header):
    other = LAYER.replace('up', 'gate') + '.weight_packed'
    header[TENSOR], header[other] = header[other], header[TENSOR]


def offsets(change):
    def edit(header):
        header[TENSOR]['data_offsets'] = change(*header[TENSOR]['data_offsets'])
    return edit


def entry(**changes):
    return lambda header: header[TENSOR].update(changes)


def renamed(header):
    header['other'] = header.pop(TENSOR)


def missing(header):
    del header[TENSOR]


def spare(header):
    header['spare'] = {'dtype': 'U8', 'shape': [0], 'data_offsets': [0, 0]}


def added_metadata(header):
    header['__metadata__'] = {'format': 3}


def twice(header):
    """The same name with two entries: readers differ in which one they take."""
    text = json.dumps(header)
    lie = json.dumps({TENSOR: {**header[TENSOR], 'shape': [16, 64]}})[1:-1]
    return text[:-1] + ', ' + lie + '}'


HEADERS = [
    swap_names,
    offsets(lambda a, b: [a + 2**40, b + 2**40]),
    offsets(lambda a, b: [0, b - a]),
    offsets(lambda a, b: [b, a]),
    offsets(lambda a, b: [a, b - 1]),
    offsets(lambda a, b: [a + 1, b + 1]),
    offsets(lambda a, b: [-b, -a]),
    offsets(lambda a, b: [a, 2**64]),
    offsets(lambda a, b: [2**64 - 1, b]),
    offsets(lambda a, b: [float(a), float(b)]),
    offsets(lambda a, b: [a]),
    entry(shape=[16, 64]),
    entry(shape=[64, 17]),
    entry(shape=[2**62, 2**62, 4]),
    entry(shape=[2**63]),
    entry(shape=[64, -16]),
    entry(shape=[]),
    entry(shape=None),
    entry(dtype='I8'),
    entry(dtype='F16', shape=[64, 8]),
    entry(dtype='F4', shape=[64, 32]),
    entry(dtype='BOOL'),
    entry(dtype='Q'),
    entry(dtype=None),
    renamed,
    missing,
    spare,
    added_metadata,
    twice,
    lambda header: '{' * 50_000,
    lambda header: '{"a":' * 50_000,
    lambda header: '{}',
    lambda header: 'null',
    lambda header: '[]',
    lambda header: '{"a": 1}',
    lambda header: ' ' * 1000,
    lambda header: b'\xff\xfe' + json.dumps(header).encode(),
    lambda header: json.dumps(header).encode().replace(b'up_proj', b'up_pro\xff'),
    lambda header: '\x00' + json.dumps(header),
    lambda header: json.dumps(header)[:-1],
]


@pytest.mark.parametrize('edit', HEADERS, ids=range(len(HEADERS)))
def test_a_hostile_header_is_refused(artifact, edit):
    rewrite_header(artifact, edit)
    refused(artifact, WEIGHTS)


def test_a_pickle_is_not_opened(artifact, tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / 'opened'), 'w'))

    (artifact / WEIGHTS).write_bytes(pickle.dumps(Touch()))
    refused(artifact, WEIGHTS)
    assert not (tmp_path / 'opened').exists()
