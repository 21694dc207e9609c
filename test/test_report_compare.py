# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that compare action chunks, on chunks whose numbers are known by hand."""
import json

import numpy as np
import pytest

from quantvla_ros.report import compare as numbers
from quantvla_ros.report.compare import Chunks, Moment, compare

NAMES, UNITS = ('turn', 'grip'), ('rad', 'm')


def chunks(states, scale=(2.0, 10.0)):
    """Chunks whose robot units are the normalised ones times `scale`."""
    states = np.asarray(states, np.float32)
    return Chunks(states[:, -1] * np.float32(scale), states)


def moments(count):
    return [Moment(f'day/{i // 2}', 10**9 * i, i % 2 * 0.5, f'command {i}') for i in range(count)]


def random_pair(count=12, steps=3, chunk=4, error=0.01, seed=0):
    generator = np.random.default_rng(seed)
    states = generator.normal(size=(count, steps + 1, chunk, 2))
    apart = error * generator.normal(size=states.shape)
    apart[:, 0] = 0.0  # the same noise
    return chunks(states + apart), chunks(states)


def run(ours, theirs, thresholds=None):
    return compare(ours, theirs, moments(len(ours.states)), NAMES, UNITS, thresholds or {})


def test_equal_policies_do_not_differ():
    _, theirs = random_pair()
    found = run(theirs, theirs, {'grip': 0.0})
    assert found['relative'] == found['relative_to_variation'] == 0.0
    assert found['cosine'] == pytest.approx(1.0)
    assert found['frame_error']['largest'] == 0.0 and found['grippers'][0]['flips'] == 0
    assert all(step['relative'] == 0.0 for step in found['steps'])


def test_the_two_relative_errors_by_hand():
    # two rows of one joint at 3 and 5 instead of 3 and 4: |1| / |(3, 4)|, |1| / |(-0.5, 0.5)|
    theirs, ours = np.array([[[3.0], [4.0]]]), np.array([[[3.0], [5.0]]])
    assert numbers.relative(ours, theirs) == pytest.approx(1 / 5)
    assert numbers.relative_to_variation(ours, theirs) == pytest.approx(1 / np.sqrt(0.5))
    assert numbers.cosine(ours, theirs) == pytest.approx(29 / (5 * np.sqrt(34)))


def test_variation_is_taken_joint_by_joint():
    # a joint that rests far from zero must not make the others' errors look small
    theirs = np.zeros((1, 4, 2))
    theirs[..., 0], theirs[0, :, 1] = 100.0, (-1.0, 1.0, -1.0, 1.0)
    ours = theirs + np.array([0.0, 0.5])
    assert numbers.relative(ours, theirs) < 0.01
    assert numbers.relative_to_variation(ours, theirs) == pytest.approx(0.5)


def test_a_joint_that_never_moves_has_no_quotient():
    states = np.zeros((2, 2, 3, 2))
    found = run(chunks(states + 0.5), chunks(states))
    assert found['relative'] is None and found['cosine'] is None
    json.dumps(found, allow_nan=False)


def test_units_differ_but_relative_errors_do_not_mix_them():
    ours, theirs = random_pair()
    small = run(ours, theirs)
    large = run(
        chunks(ours.states, (2.0, 1e6)), chunks(theirs.states, (2.0, 1e6))
    )
    assert small['relative'] == large['relative']
    assert large['joints'][1]['rms'] == pytest.approx(1e5 * small['joints'][1]['rms'], rel=1e-4)
    assert large['joints'][0]['rms'] == small['joints'][0]['rms']


def test_the_last_step_is_the_chunk_and_the_noise_is_left_out():
    found = run(*random_pair(steps=3))
    assert [step['step'] for step in found['steps']] == [1, 2, 3]
    assert found['steps'][-1]['relative'] == found['relative']


def test_the_worst_frame_is_named_with_joint_row_and_unit():
    ours, theirs = random_pair(error=0.001)
    states = ours.states.copy()
    states[5, -1, 2, 1] += 1.0
    worst = run(chunks(states), theirs)['worst_frames']
    assert len(worst) == numbers.WORST
    first = worst[0]
    assert (first['index'], first['episode'], first['seconds']) == (5, 'day/2', 0.5)
    assert (first['instruction'], first['joint'], first['row']) == ('command 5', 'grip', 2)
    assert first['unit'] == 'm' and first['difference'] == pytest.approx(10.0, rel=0.01)
    assert [w['error'] for w in worst] == sorted((w['error'] for w in worst), reverse=True)


def test_frame_errors_square_up_to_the_relative_error():
    ours, theirs = (c.states[:, -1].astype(np.float64) for c in random_pair())
    errors = numbers.frame_errors(ours, theirs)
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(numbers.relative(ours, theirs))


def test_gripper_flips_count_rows_on_different_sides():
    theirs = np.zeros((2, 1, 3, 2))
    theirs[..., 1] = [0.04, 0.06, 0.09]
    ours = theirs.copy()
    ours[0, 0, 0, 1], ours[0, 0, 2, 1] = 0.06, 0.01  # times 10: over 0.5, and below it
    (gripper,) = run(chunks(ours), chunks(theirs), {'grip': 0.5})['grippers']
    assert gripper == {
        'name': 'grip', 'threshold': 0.5, 'flips': 2, 'of': 6, 'share': pytest.approx(1 / 3),
        'frames': 1,
    }


def test_the_interval_is_wider_when_errors_come_by_episode():
    # frames of an episode are no independent witnesses
    generator = np.random.default_rng(0)
    theirs = generator.normal(size=(200, 4, 2))
    by_episode = theirs * (1 + np.repeat(generator.exponential(0.02, 20), 10)[:, None, None])
    alone = [str(i) for i in range(200)]
    together = [str(i // 10) for i in range(200)]
    narrow = numbers.relative_interval(by_episode, theirs, alone)
    wide = numbers.relative_interval(by_episode, theirs, together)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert wide[0] < numbers.relative(by_episode, theirs) < wide[1]
    assert numbers.relative_interval(theirs, theirs, ['a', 'b'] * 100) is None


def test_the_ratio_of_two_errors_is_paired_by_episode():
    # episodes differ much more than the policies: paired, the difference is seen all the same
    generator = np.random.default_rng(0)
    theirs = generator.normal(size=(60, 2, 4, 2))
    apart = generator.normal(size=theirs.shape) * np.exp(
        2 * np.repeat(generator.normal(size=30), 2)
    )[:, None, None, None]
    first, second = (run(chunks(theirs + k * apart), chunks(theirs)) for k in (0.009, 0.01))
    value, (low, high) = numbers.ratio(first['episodes'], second['episodes'])
    assert value == pytest.approx(first['relative'] / second['relative'])
    assert value == pytest.approx(0.9, rel=1e-3) and 0.89 < low <= value <= high < 0.91
    assert first['relative_95'][1] > second['relative_95'][0]  # unpaired, it is not
    with pytest.raises(ValueError, match='same episodes'):
        numbers.ratio({'a': 1.0}, {'b': 1.0})
