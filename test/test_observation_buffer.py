# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The buffer gives an aligned observation or every reason against one, on a clock it is told."""
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantvla_ros.contract.load import parse_contract
from quantvla_ros.observation import buffer as buffer_module
from quantvla_ros.observation.buffer import ObservationBuffer
from quantvla_ros.observation.types import Fault, Observation, Reason, Refusal

TEXT = """\
contract: 1
robot: bench
control_period: 0.05
cameras:
  front: {topic: front, type: sensor_msgs/msg/Image, slot: images.front}
  wrist: {topic: wrist, type: sensor_msgs/msg/Image, slot: images.wrist, required: false}
joint_states: {topic: joint_states, joints: [elbow, shoulder]}
state:
  - name: ft
    topic: ft
    type: geometry_msgs/msg/WrenchStamped
    fields: [wrench.force.z, wrench.torque.x]
    unit: N
  - {name: gap, topic: gap, type: std_msgs/msg/Float64MultiArray, fields: [data.1], unit: m}
language: {topic: instruction, max_length: 30}
action:
  topic: command
  frame_id: base
  start_tolerance: 0.2
  parts: [{kind: joint_position, names: [elbow, shoulder], unit: rad}]
limits:
  elbow: {lower: -1.0, upper: 1.0, velocity: 2.0}
  shoulder: {lower: -1.0, upper: 1.0, velocity: 2.0}
freshness: {cameras: 0.25, joint_states: 0.15, state: 0.2, skew: 0.1}
"""
CONTRACT = parse_contract(TEXT)
WIDE = parse_contract(TEXT.replace('skew: 0.1', 'skew: 0.9'))  # age alone decides
T = 1_760_000_000_000_000_000  # ns, an ordinary time
MS = 1_000_000


def header(stamp):
    return SimpleNamespace(stamp=SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9))


def camera(stamp, value=0):
    return SimpleNamespace(header=header(stamp), height=2, width=2, step=6, encoding='rgb8',
                           is_bigendian=0, data=bytes([value]) * 12)


def joints(stamp, names=('shoulder', 'elbow', 'finger'), position=(0.1, 0.2, 0.3)):
    return SimpleNamespace(header=header(stamp), name=list(names), position=list(position))


def wrench(stamp, z=3.0):
    force, torque = SimpleNamespace(x=1.0, z=z), SimpleNamespace(x=7.0)
    return SimpleNamespace(header=header(stamp),
                           wrench=SimpleNamespace(force=force, torque=torque))


def gap(value=0.5):
    return SimpleNamespace(data=[9.0, value])


class Bench:
    """A buffer with a simulated clock; every message arrives `delay` after it was measured."""

    def __init__(self, contract=CONTRACT):
        self.buffer = ObservationBuffer(contract)
        self.now = T

    def send(self, *streams, delay=2 * MS):
        make = {'front': camera, 'wrist': camera, 'joint_states': joints, 'ft': wrench,
                'gap': lambda stamp: gap()}
        for stream in streams:
            self.buffer.store(stream, make[stream](self.now - delay), self.now)

    def send_all(self, **more):
        self.send('front', 'joint_states', 'ft', 'gap', **more)

    def observe(self):
        return self.buffer.observe(self.now)

    def fault(self) -> Fault:
        refusal = self.observe()
        assert isinstance(refusal, Refusal), refusal
        assert len(refusal.faults) == 1, str(refusal)
        return refusal.faults[0]


@pytest.fixture
def bench():
    bench = Bench()
    bench.buffer.store('language', SimpleNamespace(data='pick the cup'), bench.now)
    return bench


def test_an_observation_has_every_part_in_the_order_of_the_contract(bench):
    bench.send('front', delay=30 * MS)
    bench.send('joint_states', 'ft', 'gap')
    seen = bench.observe()
    assert isinstance(seen, Observation)
    assert seen.state.dtype == np.float32
    # By name, whatever the order in the message; then the further parts.
    assert seen.state.tolist() == pytest.approx([0.2, 0.1, 3.0, 7.0, 0.5])
    assert list(seen.images) == ['images.front']
    assert seen.instruction == 'pick the cup'
    assert seen.stamp == T  # a message without a header was measured when it arrived
    assert seen.stamps == {'front': T - 30 * MS, 'joint_states': T - 2 * MS, 'ft': T - 2 * MS,
                           'gap': T, 'language': T}


def test_all_that_is_missing_is_named_at_once():
    refusal = Bench().observe()
    assert [(f.stream, f.reason) for f in refusal.faults] == [
        ('front', Reason.MISSING), ('joint_states', Reason.MISSING), ('ft', Reason.MISSING),
        ('gap', Reason.MISSING), ('language', Reason.NO_INSTRUCTION),
    ]
    assert 'front: nothing has arrived yet; joint_states: ' in str(refusal)


@pytest.mark.parametrize(('stream', 'limit'), [
    ('front', 0.25), ('joint_states', 0.15), ('ft', 0.2), ('gap', 0.2),
])
def test_an_input_that_stops_is_stale_after_its_own_limit_and_recovers(stream, limit):
    bench = Bench(WIDE)
    bench.buffer.store('language', 'go', bench.now)
    others = [s for s in ('front', 'joint_states', 'ft', 'gap') if s != stream]
    bench.send_all(delay=0)
    bench.now += round(limit * 1e9)
    bench.send(*others, delay=0)
    assert isinstance(bench.observe(), Observation)
    bench.now += 1
    fault = bench.fault()
    assert (fault.stream, fault.reason, fault.limit) == (stream, Reason.STALE, limit)
    assert fault.measured == pytest.approx(limit)
    bench.now += 50 * MS
    bench.send_all()
    assert isinstance(bench.observe(), Observation)


def test_a_slow_link_is_told_from_a_dead_sensor(bench):
    bench.send_all()
    bench.send('front', delay=300 * MS)  # older than what is there: dropped
    bench.now += 400 * MS
    bench.send('front', delay=300 * MS)
    bench.send('joint_states', 'ft', 'gap', delay=0)
    refusal = bench.observe()
    fault = next(f for f in refusal.faults if f.stream == 'front')
    assert fault.reason is Reason.LATE
    assert '(0.300 s, limit 0.250 s)' in str(fault)


@pytest.mark.parametrize('offset', [-3600.0, -1.5, 0.2, 3600.0])
def test_another_clock_is_called_so_and_not_stale(bench, offset):
    bench.send('joint_states', 'ft', 'gap')
    bench.send('front', delay=round(-offset * 1e9))
    faults = {fault.stream: fault for fault in bench.observe().faults}
    assert faults['front'].reason is Reason.CLOCK_SKEW
    assert faults['front'].measured == pytest.approx(-offset)


def test_stamps_a_little_ahead_are_fine(bench):
    # Two synchronised hosts still differ by milliseconds.
    bench.send_all(delay=-5 * MS)
    assert isinstance(bench.observe(), Observation)


def test_inputs_out_of_step_are_named_with_their_distance(bench):
    bench.send('front', delay=140 * MS)
    bench.send('joint_states', 'ft', 'gap', delay=20 * MS)
    fault = bench.fault()
    assert fault.reason is Reason.OUT_OF_STEP
    assert fault.stream == 'front, gap'
    assert (fault.measured, fault.limit) == (pytest.approx(0.14), 0.1)


def test_an_optional_camera_is_used_while_it_is_fresh_and_in_step(bench):
    bench.send_all()
    assert 'images.wrist' not in bench.observe().images
    assert bench.buffer.left_out() == {}  # it has never sent: nothing is wrong
    bench.send('wrist')
    assert 'images.wrist' in bench.observe().images
    bench.now += 300 * MS
    bench.send_all()
    seen = bench.observe()
    assert isinstance(seen, Observation) and 'images.wrist' not in seen.images
    assert bench.buffer.left_out()['wrist'].reason is Reason.STALE
    bench.send('wrist', delay=150 * MS)
    assert 'images.wrist' not in bench.observe().images
    assert bench.buffer.left_out()['wrist'].reason is Reason.OUT_OF_STEP
    bench.buffer.store('wrist', SimpleNamespace(**{**vars(camera(bench.now)), 'step': 1}),
                       bench.now)
    assert isinstance(bench.observe(), Observation)
    assert bench.buffer.left_out()['wrist'].reason is Reason.UNUSABLE
    bench.now += MS
    bench.send('wrist', delay=0)
    assert 'images.wrist' in bench.observe().images
    assert bench.buffer.left_out() == {}


def test_the_newest_by_header_wins_and_the_rest_is_counted(bench):
    bench.send_all()
    store = bench.buffer.store
    stamp = bench.now - MS
    assert store('front', camera(stamp, 5), bench.now) is None
    assert store('front', camera(stamp, 6), bench.now).reason is Reason.DUPLICATE
    fault = store('front', camera(stamp - 40 * MS, 7), bench.now)
    assert (fault.reason, fault.measured) == (Reason.OUT_OF_ORDER, pytest.approx(0.04))
    assert (bench.observe().images['images.front'] == 5).all()
    assert bench.buffer.dropped() == {('front', Reason.DUPLICATE): 1,
                                      ('front', Reason.OUT_OF_ORDER): 1}
    assert bench.buffer.received()['front'] == 4


def test_a_stamp_of_zero_is_named(bench):
    bench.send('joint_states', 'ft', 'gap')
    assert bench.buffer.store('front', camera(0), bench.now).reason is Reason.ZERO_STAMP
    assert bench.fault() == Fault(Reason.ZERO_STAMP, 'front')
    bench.send('front')
    assert isinstance(bench.observe(), Observation)


def test_a_clock_at_zero_is_named(bench):
    assert bench.buffer.observe(0).reasons == {Reason.NO_CLOCK}


def test_a_bag_loop_starts_anew_and_keeps_the_command(bench):
    # use_sim_time: the clock and the stamps go back together.
    bench.now += 20_000 * MS
    bench.send_all()
    bench.buffer.store('language', 'put it down', bench.now)
    assert isinstance(bench.observe(), Observation)
    bench.now = T
    bench.send('joint_states', 'ft', 'gap')
    fault = bench.fault()  # the picture of the pass before must not be used
    assert (fault.stream, fault.reason) == ('front', Reason.MISSING)
    bench.send('front')
    seen = bench.observe()
    assert isinstance(seen, Observation)
    assert seen.instruction == 'put it down'
    assert bench.buffer.dropped()['front', Reason.TIME_JUMP] == 1


def test_what_was_before_a_jump_of_the_clock_is_gone_and_not_from_the_future(bench):
    bench.now += 20_000 * MS
    bench.send_all()
    bench.now = T
    assert bench.observe().reasons == {Reason.MISSING}
    assert bench.buffer.dropped()['front', Reason.TIME_JUMP] == 1


def test_a_message_of_the_new_pass_may_come_before_the_clock_steps_back(bench):
    bench.now += 20_000 * MS
    bench.send_all()
    late = bench.now
    bench.buffer.store('front', camera(T - MS), late)
    assert bench.buffer.dropped()['joint_states', Reason.TIME_JUMP] == 1
    bench.now = T
    bench.send('joint_states', 'ft', 'gap')
    assert isinstance(bench.observe(), Observation)  # the picture that came first is still there


def test_a_step_back_of_less_than_a_second_is_only_disorder(bench):
    bench.send_all()
    bench.now -= 500 * MS
    refusal = bench.observe()
    assert refusal.reasons == {Reason.CLOCK_SKEW}
    bench.now += 500 * MS
    assert isinstance(bench.observe(), Observation)


@pytest.mark.parametrize(('message', 'expected'), [
    (lambda t: joints(t, names=['shoulder', 'finger'], position=[1, 2]),
     "expected joint 'elbow', found shoulder, finger"),
    (lambda t: joints(t, names=[], position=[]), "expected joint 'elbow' and 1 more, found none"),
    (lambda t: joints(t, position=[0.1, math.nan, 0.3]), "joint 'elbow', found nan"),
    (lambda t: joints(t, position=[math.inf, 0.1, 0.3]), "joint 'shoulder', found inf"),
    (lambda t: joints(t, position=[0.1, 0.2]), 'each of the 3 joints, found 2'),
    (lambda t: joints(t, names=['elbow', 'shoulder', 'elbow']), "'elbow' twice"),
])
def test_joints_that_cannot_be_mapped_are_named(bench, message, expected):
    bench.send('front', 'ft', 'gap')
    bench.buffer.store('joint_states', message(bench.now), bench.now)
    for _ in range(2):  # the reason stays until a better message comes
        fault = bench.fault()
        assert (fault.stream, fault.reason) == ('joint_states', Reason.UNUSABLE)
        assert expected in fault.detail
    assert bench.buffer.dropped() == {('joint_states', Reason.UNUSABLE): 1}
    bench.now += MS
    bench.send('joint_states', delay=0)
    assert isinstance(bench.observe(), Observation)


def test_a_nan_of_a_joint_that_is_not_asked_for_does_no_harm(bench):
    bench.send('front', 'ft', 'gap')
    bench.buffer.store('joint_states', joints(bench.now, position=[0.1, 0.2, math.nan]), bench.now)
    assert isinstance(bench.observe(), Observation)


@pytest.mark.parametrize(('stream', 'message', 'expected'), [
    ('gap', SimpleNamespace(data=[1.0]), "no '1'"),
    ('gap', SimpleNamespace(data=[1.0, math.nan]), 'finite number'),
    ('gap', SimpleNamespace(data=[1.0, 'wide']), 'expected a number'),
    ('ft', SimpleNamespace(header=header(T), wrench=SimpleNamespace(torque=1)), "no 'force'"),
])
def test_further_state_parts_name_the_field_that_fails(bench, stream, message, expected):
    bench.send(*[s for s in ('front', 'joint_states', 'ft', 'gap') if s != stream])
    bench.buffer.store(stream, message, bench.now)
    assert expected in bench.fault().detail


def test_a_command_takes_effect_at_the_next_observation(bench):
    bench.send_all()
    bench.buffer.store('language', SimpleNamespace(data=' cafe\u0301\x07\n'), bench.now)
    assert bench.observe().instruction == 'caf\u00e9'


@pytest.mark.parametrize(('text', 'expected'), [
    ('', 'expected words'), (' \t\x00', 'expected words'), ('a' * 31, 'at most 30 characters'),
])
def test_a_refused_command_leaves_the_one_before_it_in_force(bench, text, expected):
    fault = bench.buffer.store('language', SimpleNamespace(data=text), bench.now)
    assert fault.reason is Reason.INSTRUCTION_REFUSED and expected in fault.detail
    assert bench.buffer.instruction == 'pick the cup'
    assert bench.buffer.dropped() == {('language', Reason.INSTRUCTION_REFUSED): 1}


def test_the_contracts_default_holds_until_a_command_comes(bench):
    bench.send_all()
    bench.buffer.reset()
    refusal = bench.observe()
    assert Reason.NO_INSTRUCTION in refusal.reasons  # this contract has no default
    assert bench.buffer.dropped() == {} and bench.buffer.received()['front'] == 1


def test_a_picture_is_decoded_once_and_only_if_it_is_used(bench, monkeypatch):
    decoded = []
    real = buffer_module.decode_image

    def spy(message, kind):
        decoded.append(message)
        return real(message, kind)

    monkeypatch.setattr(buffer_module, 'decode_image', spy)
    bench.send('front')
    bench.observe()  # the rest is missing
    assert decoded == []
    bench.send('joint_states', 'ft', 'gap')
    first, second = bench.observe(), bench.observe()
    assert len(decoded) == 1
    assert first.images['images.front'] is second.images['images.front']


def test_an_unknown_stream_is_a_mistake_of_the_caller(bench):
    with pytest.raises(KeyError, match='no stream'):
        bench.buffer.store('frnt', camera(T), T)


def test_storing_and_observing_may_run_at_the_same_time(bench):
    # Whatever the interleaving: an observation never mixes a picture with another one's stamp.
    bench.send_all()
    done = threading.Event()

    def feed():
        for step in range(1, 2000):
            stamp = bench.now + step * 1000
            bench.buffer.store('front', camera(stamp, step % 251), bench.now)
        done.set()

    thread = threading.Thread(target=feed)
    thread.start()
    seen = 0
    while not done.is_set() or seen == 0:
        result = bench.buffer.observe(bench.now)
        if isinstance(result, Observation) and result.stamps['front'] > bench.now:
            step = (result.stamps['front'] - bench.now) // 1000
            assert (result.images['images.front'] == step % 251).all()
            seen += 1
    thread.join()


@given(st.lists(st.tuples(st.sampled_from(['front', 'joint_states', 'ft', 'gap']),
                          st.integers(-400, 50), st.integers(0, 60)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_observation_is_older_or_wider_than_the_contract_allows(events):
    bench = Bench()
    bench.buffer.store('language', 'go', bench.now)
    newest: dict[str, int] = {}
    make = {'front': camera, 'joint_states': joints, 'ft': wrench, 'gap': lambda stamp: gap()}
    limits = {'front': 250, 'joint_states': 150, 'ft': 200, 'gap': 200}
    for stream, offset, step in events:
        bench.now += step * MS
        stamp = bench.now + offset * MS
        bench.buffer.store(stream, make[stream](stamp), bench.now)
        measured = bench.now if stream == 'gap' else stamp
        newest[stream] = max(newest.get(stream, 0), measured)
        result = bench.observe()
        fits = len(newest) == 4 and all(
            -100 * MS <= bench.now - newest[s] <= limits[s] * MS for s in limits
        ) and max(newest.values()) - min(newest.values()) <= 100 * MS
        assert isinstance(result, Observation) == fits
        if fits:
            assert {s: t for s, t in result.stamps.items() if s != 'language'} == newest


# A broken picture does not spoil the good one before it.

def broken(stamp):
    message = camera(stamp)
    message.data = bytes(5)
    return message


def test_the_last_good_picture_serves_until_it_is_stale_and_the_broken_ones_are_counted(bench):
    bench = Bench(WIDE)
    bench.buffer.store('language', 'go', bench.now)
    bench.buffer.store('front', camera(bench.now, 7), bench.now)
    good = bench.now
    for count in range(1, 6):
        bench.now += 50 * MS
        bench.send('joint_states', 'ft', 'gap')
        bench.buffer.store('front', broken(bench.now), bench.now)
        seen = bench.observe()
        assert isinstance(seen, Observation), seen
        assert seen.stamps['front'] == good and (seen.images['images.front'] == 7).all()
        assert bench.buffer.check(bench.now) is None
        told = bench.buffer.broken('front')
        assert told.count == count and told.received == bench.now and told.detail
        assert bench.buffer.dropped()['front', Reason.UNUSABLE] == count
    bench.now += 1
    assert bench.fault().reason is Reason.UNUSABLE


def test_broken_pictures_that_nobody_looked_at_are_passed_over_to_the_good_one(bench):
    bench.send_all()
    bench.now += 20 * MS
    bench.buffer.store('front', camera(bench.now, 9), bench.now)
    good = bench.now
    for _ in range(3):
        bench.now += 15 * MS
        bench.buffer.store('front', broken(bench.now), bench.now)
    bench.send('joint_states', 'ft', 'gap')
    assert bench.observe().stamps['front'] == good


def test_a_good_picture_that_is_out_of_step_is_no_stand_in_for_a_broken_one(bench):
    bench.send_all(delay=0)
    bench.now += 120 * MS  # the limit is 100
    bench.buffer.store('front', broken(bench.now), bench.now)
    bench.send('joint_states', 'ft', 'gap', delay=0)
    assert bench.fault().reason is Reason.UNUSABLE
