# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags to a calibration sample: what is broken is counted and told, only too little is fatal."""
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from quantization_samples import COMMANDS, contract, write_bag
from rosbags.rosbag2 import Writer

from quantvla_ros.cli.calibration_data import read_frames
from quantvla_ros.cli.progress import ProgressLine
from quantvla_ros.contract.load import load_contract
from quantvla_ros.errors import BagError, CalibrationError
from quantvla_ros.quantization.recipe import Sampling
from quantvla_ros.report.findings import coverage_of

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / 'shared'


def read(*bags, samples=20, minimum=8, held_out=4, seed=0, robot=None):
    """The frames, and what was said."""
    stream = io.StringIO()
    with ProgressLine(('reading bags',), stream) as progress:
        frames = read_frames(
            bags, robot or contract(), Sampling(samples, minimum, held_out), seed, progress
        )
    return frames, stream.getvalue()


def kinds(frames):
    return {caution.kind for caution in frames.coverage.cautions()}


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag')


def test_the_sample_is_even_over_instructions_and_the_account_adds_up(bag):
    frames, _ = read(bag)
    assert len(frames.observations) == 20 and len(frames.held_out) == 4
    counts = Counter(o.instruction for o in (*frames.observations, *frames.held_out))
    assert set(counts.values()) == {12}
    coverage = frames.coverage
    assert (coverage.found, coverage.constant, coverage.used) == (60, 0, 24)
    assert sum(entry['used'] for entry in frames.account) == 24
    assert list(frames.bags) == ['bag'] and coverage.readings.instants == 60
    assert 'one_instruction' not in kinds(frames)


def test_the_seed_decides(bag):
    def stamps(seed):
        return [o.stamp for o in read(bag, seed=seed)[0].observations]

    assert stamps(1) == stamps(1) != stamps(2)


def test_a_bag_given_twice_is_counted_once_with_a_word(bag, tmp_path):
    copy = shutil.copytree(bag, tmp_path / 'other_name')
    frames, said = read(bag, copy, bag)
    assert frames.coverage.found == 60 and list(frames.bags) == ['bag']
    assert said.count('the same recording as bag, counted once') == 2
    assert 'bags_left_out' in kinds(frames)
    assert set(frames.coverage.readings.bags_left_out) == {'other_name', 'bag (2)'}


def test_a_bag_that_gives_nothing_does_not_stop_the_others(bag, tmp_path):
    (tmp_path / 'torn').mkdir()
    (tmp_path / 'torn' / 'torn.mcap').write_bytes(b'\x89MCAP0\r\n')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'x.mcap').write_bytes(b'something else')
    frames, said = read(tmp_path / 'torn', bag, tmp_path / 'other')
    assert frames.coverage.found == 60 and list(frames.bags) == ['bag']
    assert set(frames.coverage.readings.bags_left_out) == {'torn', 'other'}
    assert 'torn: left out' in said and 'other: left out' in said
    with pytest.raises(BagError, match='torn'):  # nothing else is left
        read(tmp_path / 'torn')


def test_a_path_that_leads_nowhere_is_a_slip_not_a_damaged_bag(bag, tmp_path):
    with pytest.raises(BagError, match='check the path'):
        read(bag, tmp_path / 'bga')


def cut(bag, out, share):
    """A copy of a bag without its end."""
    shutil.copytree(bag, out)
    file = next(out.glob('*.mcap'))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    return out


def test_a_bag_that_is_cut_off_counts_as_far_as_it_goes(tmp_path):
    whole = write_bag(tmp_path / 'whole', frames=200)
    frames, _ = read(cut(whole, tmp_path / 'torn', 0.5))
    assert 100 <= frames.coverage.found < 300
    assert 'damaged_files' in kinds(frames)
    assert any('torn' in fault for fault in frames.coverage.readings.faults)


def altered_bag(path, change, **settings):
    """A recording whose messages went through `change(topic, number, data)` on their way."""
    seen = Counter()
    write = Writer.write

    def altered(self, connection, time, data):
        seen[connection.topic] += 1
        return write(self, connection, time, change(
            connection.topic, seen[connection.topic], bytes(data)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, 'write', altered)
        return write_bag(path, **settings)


def broken_bag(path, every):
    """A bag in which each n-th overhead picture and joint state is torn."""
    def tear(topic, number, data):
        torn = topic in ('/overhead/image_raw', '/joint_states') and number % every == 0
        return data[: len(data) // 2] if torn else data

    return altered_bag(path, tear)


def test_broken_messages_are_counted_by_topic_and_reason(tmp_path):
    frames, _ = read(broken_bag(tmp_path / 'broken', 10))
    readings = frames.coverage.readings
    losses = {loss.topic: loss for loss in readings.broken}
    assert set(losses) == {'/overhead/image_raw', '/joint_states'}
    assert {loss.count for loss in losses.values()} == {6}
    assert all(loss.bag == 'broken' and 'do not fit its type' in loss.reason
               for loss in losses.values())
    assert frames.coverage.found == 54  # a picture each tenth is missing; states are fresh enough
    assert readings.messages == 2 + 4 * 60
    assert 'broken' not in kinds(frames)  # 12 of 242 is 5 %
    assert any('6 messages of /joint_states' in line for line in frames.coverage.summary())
    json.dumps(frames.coverage.content())


def test_the_report_shows_what_was_used_and_what_was_left_out(tmp_path):
    bag = broken_bag(tmp_path / 'broken', 10)
    frames, _ = read(bag, shutil.copytree(bag, tmp_path / 'copy'))
    shown = coverage_of(frames.coverage, frames.bags)
    assert sum(group.used for group in shown.episodes) == 24
    assert sum(group.used for group in shown.phases) == 24
    counts = {(entry.topic, entry.reason[:10]): entry.count for entry in shown.left_out}
    assert counts['/joint_states', 'its bytes '] == 6
    assert counts['copy', 'the whole '] == 1
    assert shown.bags == frames.bags and any('1 bag left out' in line for line in shown.warnings)


def test_a_held_out_frame_tells_where_it_comes_from(bag):
    frames, _ = read(bag)
    assert len(frames.origins) == len(frames.held_out) == 4
    for origin, observation in zip(frames.origins, frames.held_out, strict=True):
        # the second episode begins 3 s after the end of the first, with another command
        place = COMMANDS.index(observation.instruction)
        assert origin.episode == f'bag/{place}'
        began = 1_760_000_000 * 10**9 + 50_000_000 + place * (30 * 50_000_000 + 3 * 10**9)
        assert origin.time == pytest.approx((observation.stamp - began) / 1e9)


def test_mostly_broken_is_told_and_too_few_is_fatal_with_all_counts(tmp_path):
    bag = broken_bag(tmp_path / 'broken', 2)
    frames, _ = read(bag)
    assert {'broken', 'few_samples'} & kinds(frames) == {'broken'}
    with pytest.raises(CalibrationError) as caught:
        read(bag, minimum=100, samples=100)
    text = str(caught.value)
    assert '\n' not in text
    assert 'expected at least 100 observations' in text and 'found 30' in text
    assert f'15 of episode broken/0 ({COMMANDS[0]!r})' in text
    assert 'while still, gripper' in text or 'while fast, gripper' in text
    assert '30 messages of /overhead/image_raw: its bytes do not fit its type' in text


def still_bag(path, still, frames):
    """A recording in which nothing happens during the first `still` frames."""
    first = {}

    def freeze(topic, number, data):
        kept = first.setdefault(topic, data)
        # behind the four bytes that begin every message and the stamp of its header
        frozen = topic != '/instruction' and number <= still
        return data[:12] + kept[12:] if frozen else data

    return altered_bag(path, freeze, frames=frames, commands=COMMANDS[:1])


def test_a_robot_that_stands_still_does_not_fill_the_sample(tmp_path):
    bag = still_bag(tmp_path / 'still', still=90, frames=100)
    frames, _ = read(bag, samples=6, minimum=4, held_out=2)
    coverage = frames.coverage
    assert coverage.constant == 89 and coverage.found == 11
    first = min(o.stamp for o in (*frames.observations, *frames.held_out))
    moving = [o for o in frames.observations if o.stamp > first + 89 * 50_000_000]
    assert len(moving) >= 5
    assert {'constant', 'one_episode', 'one_instruction'} <= kinds(frames)
    with pytest.raises(CalibrationError, match='left out 89 constant frames'):
        read(bag, minimum=12)


@pytest.mark.skipif(not (SHARED / 'bags').is_dir(), reason='needs the recorded GR1 bags')
def test_real_bags_give_an_even_sample():
    robot = load_contract(ROOT / 'config' / 'contracts' / 'gr1_arms.yaml')
    bags = [SHARED / 'bags' / f'gr1_pick_place_{i}' for i in (0, 1)]
    frames, said = read(*bags, samples=128, minimum=16, held_out=16, robot=robot)
    coverage = frames.coverage
    assert said == '' and coverage.losses() == [] and coverage.cautions() == []
    assert {used for _, _, used in coverage.by('episode').values()} == {72}
    by_phase = {key[0]: used for key, (_, _, used) in coverage.by('phase').items()}
    assert set(by_phase) == {'still', 'slow', 'fast'}
    assert by_phase['slow'] >= 70 and by_phase['fast'] >= 70
    assert coverage.found + coverage.constant == 886
