# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy's recording: from messages to a bag, to the same observations and the same bits."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from quantvla_ros.cli import replay
from quantvla_ros.contract.load import load_contract
from quantvla_ros.control.chunk import Chunk
from quantvla_ros.control.rtc import Guidance
from quantvla_ros.control.trajectory import Trajectory
from quantvla_ros.errors import BagError
from quantvla_ros.nodes import recording as module
from quantvla_ros.nodes.decisions import Sent, Work
from quantvla_ros.nodes.recording import Recording, conditions_of, new_bag, streams_of
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.recording import RecordedPolicy
from quantvla_ros.observation.types import Observation

CONTRACT_FILE = Path(__file__).parent / 'ros' / 'bench_contract.yaml'
CONTRACT = load_contract(CONTRACT_FILE)
STORE = get_typestore(Stores.ROS2_KILTED)
BEGIN = 1_800_000_000_000_000_000
PERIOD = 50_000_000
INFO = SimpleNamespace(artifact_id='made-up', precision='none')
RUNNING = SimpleNamespace(engine='plain', device='cpu')
POLICY = SimpleNamespace(info=INFO, running=RUNNING)


def infer(observation: Observation, *, seed: int, guidance: Guidance | None = None) -> np.ndarray:
    """Numbers that change with everything a chunk may depend on."""
    rng = np.random.default_rng(seed)
    picture = sum(image.astype(np.float64).sum() for image in observation.images.values())
    rows = rng.normal(size=(4, 2)) + observation.state + picture + len(observation.instruction)
    if guidance is not None:
        rows = rows + guidance.actions * guidance.weights[:, np.newaxis]
    return rows.astype(np.float32)


class Node:
    """What a policy node does with its messages and its recording, without ROS."""

    def __init__(self, folder: Path) -> None:
        self.now = BEGIN
        self.buffer = ObservationBuffer(CONTRACT)
        self.errors: list[str] = []
        self.path = new_bag(str(folder), 'policy')
        self.recording = Recording(
            self.path, '/policy', streams_of(CONTRACT, lambda topic: f'/{topic}'),
            conditions_of(POLICY, path='policy', contract_path='contract', prompt_lengths=''),
            CONTRACT_FILE.read_text(encoding='utf-8'), frame_id='base_link',
            now=lambda: self.now, logger=SimpleNamespace(error=self.errors.append),
        )
        self.sequence = 0

    def hear(self, stream: str, topic: str, kind: str, **fields: object) -> None:
        if 'header' in STORE.fielddefs[kind][1][0]:
            stamp = fields.pop('stamp', self.now)
            time = STORE.types['builtin_interfaces/msg/Time'](stamp // 10**9, stamp % 10**9)
            fields['header'] = STORE.types['std_msgs/msg/Header'](time, 'base_link')
        message = STORE.types[kind](**fields)
        data = STORE.serialize_cdr(message, kind).tobytes()
        self.recording.heard(topic, data, self.now)
        self.buffer.store(stream, message, self.now)

    def picture(self, value: int, **fields: object) -> None:
        self.hear(
            'eye', '/eye/image_raw', 'sensor_msgs/msg/Image', height=2, width=2, encoding='rgb8',
            is_bigendian=0, step=6, data=np.full(12, value, np.uint8), **fields,
        )

    def joints(self, value: float) -> None:
        none = np.zeros(0)
        self.hear(
            'joint_states', '/joint_states', 'sensor_msgs/msg/JointState', name=['a', 'b'],
            position=np.array([value, -value]), velocity=none, effort=none,
        )

    def say(self, words: str) -> None:
        self.hear('language', '/instruction', 'std_msgs/msg/String', data=words)

    def look(self, guidance: Guidance | None = None, outcome: str = '') -> np.ndarray:
        observed = self.buffer.observe(self.now)
        assert isinstance(observed, Observation), observed
        work = Work(observed, self.sequence, 0.0, self.now, 0, guidance)
        seed = observed.stamp % 2**63
        chunk = infer(observed, seed=seed, guidance=guidance)
        if not outcome:
            rows = chunk.astype(np.float64)
            points = Trajectory(
                observed.stamp, ('a', 'b'), np.arange(1.0, 5.0), rows, np.zeros_like(rows)
            )
            self.recording.sent(
                Sent(Chunk(observed.stamp, 0.05, ('a', 'b'), rows), points, work, 0.01)
            )
        self.recording.inferred(work, seed, chunk, 0.01, outcome)
        self.sequence += 1
        self.now += PERIOD
        return chunk


@pytest.fixture
def node(tmp_path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.recording.close()


def run(node: Node) -> None:
    """Six inferences; messages that are late, doubled or never looked at between them."""
    node.say('stand  up')
    for step in range(6):
        node.picture(step)
        node.picture(200, stamp=node.now)  # a second one with the same stamp does not count
        node.picture(100, stamp=node.now - 10_000_000)  # nor does an older one
        node.joints(0.01 * step)
        if step == 3:
            node.say('sit down')
        guidance = Guidance(np.full((4, 2), 0.5), np.array([1.0, 0.5, 0.1, 0.0]))
        node.look(guidance if step == 4 else None, 'dropped: too fast' if step == 2 else '')


def test_a_recording_gives_the_same_observations_and_the_same_bits(node):
    run(node)
    node.recording.close()
    with RecordedPolicy(node.path) as recorded:
        assert recorded.health.whole and recorded.count == 6
        assert recorded.conditions.artifact_id == 'made-up'
        assert recorded.contract == replace(CONTRACT, source='contract')
        inferences = list(recorded.inferences())
        outcome = replay.again(inferences, infer)
    assert outcome.same and outcome.identical == 6
    assert [i.observation.instruction for i in inferences] == ['stand  up'] * 3 + ['sit down'] * 3
    assert [i.outcome for i in inferences] == ['', '', 'dropped: too fast', '', '', '']
    assert [i.guidance is not None for i in inferences] == [False] * 4 + [True, False]
    assert 'have the same bits' in replay.outcome_text(outcome, CONTRACT)[0]


def test_one_bit_is_found_and_named(node):
    run(node)
    node.recording.close()

    def another(observation: Observation, **given: object) -> np.ndarray:
        chunk = infer(observation, **given)
        if observation.instruction == 'sit down':
            chunk[2, 1] = np.nextafter(chunk[2, 1], np.float32(np.inf))
        return chunk

    with RecordedPolicy(node.path) as recorded:
        outcome = replay.again(recorded.inferences(), another)
    assert not outcome.same and outcome.identical == 3
    first = outcome.differences[0]
    assert (first.inference, first.row, first.column) == (3, 2, 1)
    text = replay.outcome_text(outcome, CONTRACT)
    assert text[0].startswith('first difference: inference 3, row 2, b: recorded ')
    assert text[0].endswith(' rad')
    assert text[1].startswith('3 of 6 chunks differ')


def test_bits_are_compared_and_not_values():
    nan = np.array([[np.nan, 0.0]], np.float32)
    assert replay.difference(0, nan, nan.copy()) is None
    found = replay.difference(0, nan, np.array([[np.nan, -0.0]], np.float32))
    assert found is not None and (found.row, found.column, found.largest) == (0, 1, 0.0)
    found = replay.difference(7, nan, np.zeros((2, 2), np.float32))
    assert found is not None and found.shapes == ((1, 2), (2, 2))


def test_what_the_disk_was_too_slow_for_is_counted_and_said_by_name(tmp_path, monkeypatch):
    node = Node(tmp_path)
    monkeypatch.setattr(module, '_BACKLOG', 0)
    node.say('stand')
    node.picture(1)
    node.joints(0.1)
    node.look()
    node.recording.close()
    assert node.recording.lost == 3
    with RecordedPolicy(node.path) as recorded:
        outcome = replay.again(recorded.inferences(), infer)
    assert not outcome.same
    assert outcome.lacking == ((0, 'the bag lacks the message of eye, joint_states'),)


def test_a_disk_that_fails_ends_the_recording_and_nothing_else(node, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(node.recording._writer, 'write', full)
    run(node)
    node.recording.close()
    assert 'No space left on device' in node.recording.problem
    assert len(node.errors) == 1


def test_a_clock_that_goes_back_does_not_disturb_the_order(node):
    run(node)
    node.now = BEGIN - 100 * 10**9
    node.buffer = ObservationBuffer(CONTRACT)
    run(node)
    node.recording.close()
    with RecordedPolicy(node.path) as recorded:
        outcome = replay.again(recorded.inferences(), infer)
    assert outcome.same and outcome.identical == 12


def test_a_bag_of_something_else_is_refused_with_the_way_to_a_recording(tmp_path):
    from rosbags.rosbag2 import Writer

    with Writer(tmp_path / 'bag', version=9) as writer:
        writer.add_connection('/words', 'std_msgs/msg/String', typestore=STORE)
    with pytest.raises(BagError, match='record_to'):
        RecordedPolicy(tmp_path / 'bag')


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='record_to'):
        Node(tmp_path / 'file')


def test_what_is_not_the_same_here_is_said():
    recorded = conditions_of(POLICY, path='p', contract_path='c', prompt_lengths='')
    here = replace(recorded, artifact_id='other', device='cuda:0')
    text = replay._conditions_text(recorded, here)[-1]
    assert 'artifact other instead of made-up' in text and 'device cuda:0 instead of cpu' in text
    assert len(replay._conditions_text(recorded, recorded)) == 2


def test_a_bag_that_was_cut_off_is_done_again_as_far_as_it_goes(node):
    for step in range(40):
        node.hear(
            'eye', '/eye/image_raw', 'sensor_msgs/msg/Image', height=300, width=300,
            encoding='rgb8', is_bigendian=0, step=900,
            data=np.random.default_rng(step).integers(0, 256, 270_000, np.uint8),
        )
        node.joints(0.01 * step)
        if step == 0:
            node.say('stand')
        node.look()
    node.recording.close()
    [file] = node.path.glob('*.mcap')
    file.write_bytes(file.read_bytes()[:file.stat().st_size * 6 // 10])
    (node.path / 'metadata.yaml').unlink()
    with RecordedPolicy(node.path) as recorded:
        outcome = replay.again(recorded.inferences(), infer)
        assert not recorded.health.whole
    assert outcome.same and 10 < outcome.identical < 40
