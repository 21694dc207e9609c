# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A contract file is taken whole or refused in one line: file, line, place, remedy."""
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quantvla_ros.contract.instruction import clean_instruction
from quantvla_ros.contract.load import contract_hash, load_contract, parse_contract
from quantvla_ros.contract.types import COMPRESSED_IMAGE, ActionKind
from quantvla_ros.errors import ContractError, ObservationError

CONTRACTS = Path(__file__).resolve().parents[1] / 'config' / 'contracts'

GOOD = """\
contract: 1
robot: bench
control_period: 0.05
cameras:
  front: {topic: front/image, type: sensor_msgs/msg/Image, slot: observation.images.front}
  wrist:
    topic: wrist/image/compressed
    type: sensor_msgs/msg/CompressedImage
    slot: observation.images.wrist
    required: false
joint_states:
  topic: joint_states
  joints: [shoulder, elbow, finger]
state:
  - {name: wrench, topic: /ft, type: geometry_msgs/msg/WrenchStamped, fields: [wrench.force.x, wrench.force.z], unit: N}
language: {topic: instruction, default: hold still, max_length: 60}
action:
  topic: arm/joint_trajectory
  frame_id: base
  start_tolerance: 0.2
  recorded_topic: /joint_commands
  parts:
    - {kind: joint_delta, names: [shoulder, elbow], unit: rad}
    - {kind: gripper, names: [finger], unit: m, model_range: [1.0, -1.0], joint_range: [0.0, 0.04]}
limits:
  shoulder: {lower: -1.0, upper: 1.0, velocity: 2.0}
  elbow: {lower: -1.0, upper: 1.0, velocity: 2.0}
  finger: {lower: 0.0, upper: 0.05, velocity: 0.1, unit: m}
freshness: {cameras: 0.3, skew: 0.05}
"""  # noqa: E501


def fault(old: str, new: str) -> str:
    """The refusal of GOOD with one piece exchanged."""
    assert GOOD.count(old) >= 1
    with pytest.raises(ContractError) as caught:
        parse_contract(GOOD.replace(old, new, 1), 'c.yaml')
    message = str(caught.value)
    assert '\n' not in message
    assert re.match(r'c\.yaml:\d+: .+: expected .+, found .+', message), message
    return message


def test_every_part_of_a_contract_is_read_as_written():
    contract = parse_contract(GOOD)
    assert [camera.name for camera in contract.cameras] == ['front', 'wrist']
    assert contract.cameras[0].required and not contract.cameras[1].required
    assert contract.cameras[1].type == COMPRESSED_IMAGE
    assert contract.state_names == (
        'shoulder', 'elbow', 'finger', 'wrench.wrench.force.x', 'wrench.wrench.force.z'
    )
    assert [part.kind for part in contract.action.parts] == [
        ActionKind.JOINT_DELTA, ActionKind.GRIPPER
    ]
    assert contract.action.parts[1].model_range == (1.0, -1.0)  # closed first, whatever is larger
    assert contract.action.parts[1].joint_range == (0.0, 0.04)
    assert contract.action.names == ('shoulder', 'elbow', 'finger')
    assert contract.action.recorded_topic == '/joint_commands'
    assert contract.limits['finger'].unit == 'm'
    assert contract.language.default == 'hold still'
    assert (contract.freshness.cameras, contract.freshness.skew) == (0.3, 0.05)
    assert contract.freshness.joint_states == 0.15  # not given: the documented default


@pytest.mark.parametrize('path', sorted(CONTRACTS.glob('*.yaml')), ids=lambda path: path.stem)
def test_the_contracts_that_we_ship_load(path):
    contract = load_contract(path)
    assert contract.source == str(path)
    assert set(contract.action.names) <= set(contract.limits)


def test_a_twist_part_names_its_axes_by_itself():
    text = GOOD.replace(
        '{kind: joint_delta, names: [shoulder, elbow], unit: rad}', '{kind: twist}'
    )
    assert parse_contract(text).action.names == ('vx', 'vy', 'vz', 'wx', 'wy', 'wz', 'finger')


@pytest.mark.parametrize(('old', 'new', 'line', 'parts'), [
    ('robot: bench', 'robt: bench', 2, ["'robt'", "did you mean 'robot'?"]),
    ('robot: bench', 'robot: bench\nrobot: two', 3, ['robot', 'first in line 2']),
    ('robot: bench\n', '', 1, ["the key 'robot'", 'add robot']),
    ('robot: bench', 'robot: 12', 2, ['robot:', 'the whole number 12', 'quotes']),
    ('robot: bench', 'robot:', 2, ['robot:', 'nothing']),
    ('contract: 1', 'contract: 2', 1, ['contract:', 'layout 1']),
    ('control_period: 0.05', 'control_period: 0', 3, ['control_period', '(0, 10] s', '0']),
    ('control_period: 0.05', 'control_period: -0.05', 3, ['control_period', '-0.05']),
    ('control_period: 0.05', 'control_period: .nan', 3, ['control_period', '.nan', 'finite']),
    ('control_period: 0.05', 'control_period: 5e-2', 3, ["text '5e-2'", '1.0e-3']),
    ('control_period: 0.05', 'control_period: 50 ms', 3, ["text '50 ms'", 'without unit']),
    ('control_period: 0.05', 'control_period: !!float fast', 3, ['number fast', 'tag']),
    ('control_period: 0.05', 'control_period: {s: 1}', 3, ['a mapping']),
    ('topic: front/image,', 'topic: front/image, tpic: a,', 5, ['cameras.front.tpic', "'topic'"]),
    ('topic: front/image,', 'topic: front//image,', 5, ['cameras.front.topic', 'slash']),
    ('topic: front/image,', 'topic: front/2nd,', 5, ['cameras.front.topic', "'2nd'"]),
    ('topic: front/image,', 'topic: ~/image,', 5, ['cameras.front.topic', 'private']),
    ('topic: front/image,', 'topic: front__image,', 5, ['cameras.front.topic', 'underscores']),
    ('topic: front/image,', 'topic: front/image/,', 5, ['cameras.front.topic', 'slash']),
    ('topic: front/image,', 'topic: wrist/image/compressed,', 7,
     ['cameras.wrist.topic', 'cameras.front.topic']),
    ('type: sensor_msgs/msg/Image', 'type: sensor_msgs/Image', 5,
     ['cameras.front.type', "did you mean 'sensor_msgs/msg/Image'?"]),
    ('type: sensor_msgs/msg/Image', 'type: sensor_msgs/msg/PointCloud2', 5,
     ['cameras.front.type', 'PointCloud2']),
    ('slot: observation.images.wrist', 'slot: observation.images.front', 9,
     ['cameras.wrist.slot', 'cameras.front']),
    ('slot: observation.images.front}', 'slot: a, required: false}', 5,
     ['cameras:', 'at least one required camera']),
    ('required: false', 'required: maybe', 10, ['cameras.wrist.required', 'true or false']),
    ('  front: {', '  joint_states: {', 5, ['cameras.joint_states', 'rename']),
    ('  front: {', '  on: {', 5, ['cameras', 'quotes']),  # YAML 1.1 reads on as true
    ('joints: [shoulder, elbow, finger]', 'joints: [shoulder, elbow, elbow]', 13,
     ['joint_states.joints[2]', 'second time']),
    ('joints: [shoulder, elbow, finger]', 'joints: [shoulder, elbow, 3]', 13,
     ['joint_states.joints[2]', 'the whole number 3']),
    ('joints: [shoulder, elbow, finger]', 'joints: []', 13, ['joint_states.joints', 'empty']),
    ('joints: [shoulder, elbow, finger]', 'joints: shoulder', 13, ['a list', 'text']),
    ('joints: [shoulder, elbow, finger]', 'joints: [shoulder, elbo, finger]', 27,
     ['limits.elbow', "did you mean 'elbo'?"]),
    ('type: geometry_msgs/msg/WrenchStamped', 'type: geometry_msgs/WrenchStamped', 15,
     ['state[0].type', 'geometry_msgs/msg/WrenchStamped']),
    ('wrench.force.z]', 'wrench.force.z; drop]', 15, ['state[0].fields[1]']),
    ('name: wrench', 'name: front', 15, ['state[0].name', "'front'"]),
    ('topic: /ft,', 'topic: /joint_states,', 15, ['state[0].topic', 'joint_states.topic']),
    ('default: hold still', 'default: "\\u0007 "', 16, ['language.default', '1 to 60']),
    ('max_length: 60', 'max_length: 4', 16, ['language.default', '1 to 4']),
    ('max_length: 60', 'max_length: 0', 16, ['language.max_length']),
    ('max_length: 60', 'max_length: 6.5', 16, ['language.max_length', 'whole number']),
    ('start_tolerance: 0.2', 'start_tolerance: .inf', 20, ['action.start_tolerance']),
    ('recorded_topic: /joint_commands', 'recorded_topic: /arm/joint_trajectory', 18,
     ['action.topic', 'action.recorded_topic']),
    ('kind: joint_delta', 'kind: joint_deltas', 23, ["did you mean 'joint_delta'?"]),
    ('kind: joint_delta, ', '', 23, ["the key 'kind'"]),
    ('names: [shoulder, elbow]', 'names: [shoulder, elbw]', 23,
     ['action.parts[0].names[1]', "did you mean 'elbow'?"]),
    ('names: [shoulder, elbow], unit: rad', 'names: [shoulder, elbow], unit: deg', 23,
     ['action.parts[0].unit', 'REP-103']),
    ('names: [shoulder, elbow]', 'names: [shoulder, finger]', 23, ['unit of limits.finger']),
    ('names: [finger]', 'names: [elbow]', 24, ['action.parts[1].unit', 'limits.elbow']),
    ('names: [finger]', 'names: [finger, elbow]', 24, ['action.parts[1]']),
    ('model_range: [1.0, -1.0]', 'model_range: [1.0, 1.0]', 24, ['two different']),
    ('model_range: [1.0, -1.0]', 'model_range: [1.0]', 24, ['two numbers']),
    (', model_range: [1.0, -1.0]', '', 24, ["the key 'model_range'"]),
    ('joint_range: [0.0, 0.04]', 'joint_range: [0.0, 0.4]', 24,
     ['action.parts[1].joint_range[1]', 'limits.finger']),
    ('  elbow: {lower: -1.0, upper: 1.0, velocity: 2.0}\n', '', 23,
     ['action.parts[0].names[1]', 'add limits.elbow']),
    ('elbow: {lower: -1.0, upper: 1.0', 'elbow: {lower: 1.0, upper: 1.0', 27,
     ['limits.elbow.upper', 'more than lower']),
    ('velocity: 0.1', 'velocity: 0.0', 28, ['limits.finger.velocity', 'm/s']),
    ('  elbow: {', '  elbw: {', 27, ['limits.elbw', "did you mean 'elbow'?"]),
    ('skew: 0.05', 'skew: 0', 29, ['freshness.skew']),
    ('skew: 0.05', 'skw: 0.05', 29, ['freshness.skw', "did you mean 'skew'?"]),
    ('skew: 0.05', 'skew: 0.05, skew: 0.06', 29, ['freshness.skew', 'second time']),
    ('skew: 0.05}', 'skew: 0.05', 30, ['valid YAML']),
    ('contract: 1', '\tcontract: 1', 1, ['valid YAML']),
])  # fmt: skip
def test_a_fault_is_one_line_with_its_place(old, new, line, parts):
    if 'valid YAML' in parts[0]:
        with pytest.raises(ContractError, match=r'c\.yaml:\d+: expected valid YAML') as caught:
            parse_contract(GOOD.replace(old, new, 1), 'c.yaml')
        message = str(caught.value)
        assert '\n' not in message
    else:
        message = fault(old, new)
    assert message.startswith(f'c.yaml:{line}: '), message
    for part in parts:
        assert part in message


def test_a_joint_in_two_action_parts_is_refused():
    text = GOOD.replace(
        '    - {kind: joint_delta, names: [shoulder, elbow], unit: rad}\n',
        '    - {kind: joint_delta, names: [shoulder, elbow], unit: rad}\n'
        '    - {kind: joint_position, names: [elbow], unit: rad}\n',
    )
    with pytest.raises(ContractError, match=r"parts\[1\].*'elbow', which action\.parts\[0\]"):
        parse_contract(text, 'c.yaml')


@pytest.mark.parametrize('content', [b'', b'# only a comment\n', b'- a\n', b'x', b'\xff\xfe\x00',
                                     b'a: 1\n---\nb: 2\n', b'[' * 5000, b'&a [*a]', b'"\x00"'],
                         ids=['empty', 'comment', 'list', 'word', 'no text', 'two', 'deep',
                              'recursive', 'null'])
def test_what_is_no_contract_at_all_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / 'c.yaml'
    path.write_bytes(content)
    with pytest.raises(ContractError) as caught:
        load_contract(path)
    assert '\n' not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ContractError, match=r'none\.yaml: expected a contract file, found none'):
        load_contract(tmp_path / 'none.yaml')
    with pytest.raises(ContractError, match='expected a readable file'):
        load_contract(tmp_path)


def test_the_hash_follows_the_content_and_not_the_writing():
    reordered = GOOD.replace(
        'freshness: {cameras: 0.3, skew: 0.05}', 'freshness: {skew: 0.05, cameras: 0.30}  # same'
    )
    assert contract_hash(parse_contract(GOOD, 'a')) == contract_hash(parse_contract(reordered, 'b'))
    swapped = GOOD.replace('joints: [shoulder, elbow, finger]', 'joints: [elbow, shoulder, finger]')
    assert contract_hash(parse_contract(GOOD)) != contract_hash(parse_contract(swapped))


@given(st.text(max_size=80))
@example('e\u0007\u0301')
@example('\u202edo the opposite')
def test_a_clean_instruction_stays_as_it_is(text):
    try:
        clean = clean_instruction(text, 200)
    except ObservationError as error:
        assert 'expected words' in str(error)
        return
    assert clean_instruction(clean, 200) == clean
    assert clean == clean.strip()
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in clean)
    clean.encode()  # no lone surrogate is left


def test_equal_looking_commands_become_equal():
    assert clean_instruction('pick\tthe caf\u00e9\ncup \x1b', 200) == 'pick the caf\u00e9 cup'
    assert clean_instruction('pick the cafe\u0301 cup', 200) == 'pick the caf\u00e9 cup'
    with pytest.raises(ObservationError, match=r'at most 5 characters, found 6'):
        clean_instruction('123456', 5)
