# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What runs in a lane beside the rest, behind what it needs of that."""
import pytest
import torch
from engine_kinds import CPU, KINDS
from engine_lane_watch import LaneWatch
from engine_samples import inputs, network

from quantvla_ros.engine import lanes
from quantvla_ros.engine.lanes import BESIDE, Beside, Lane
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.kernels import gpu
from quantvla_ros.kernels.counters import counters, own_counters


@pytest.fixture
def watch(monkeypatch):
    made = LaneWatch()
    monkeypatch.setattr(lanes, 'streams_of', made.streams_of)
    return made


@pytest.fixture(scope='module')
def weights():
    return PI05Weights(network('w8a8'), CPU, torch.float32)


def actions(forward, given, watch=None) -> torch.Tensor:
    forward.actions.fill_(torch.nan)
    forward.set_inputs(*given)
    with torch.no_grad():
        if watch is None:
            return forward.run().clone()
        with watch:
            forward.run()
    return forward.actions.clone()


@pytest.mark.parametrize('beside', [1, 2, 3])
def test_in_a_lane_nothing_is_read_before_it_is_written(watch, weights, beside):
    forward = PI05Forward(weights, 3, 9, beside=beside)
    for seed in range(2):  # the second run finds the buffers of the first
        actions(forward, inputs(3, 7, seed), watch)
    assert not watch.races and not watch.strays
    assert set(watch.operations) == {0, 1}


@pytest.mark.parametrize('engine', ['pi05', 'smolvla'])
def test_the_first_step_beside_the_prefix_gives_the_bits_of_one_behind_it(engine):
    kind = KINDS[engine]
    given, weights = kind.samples.inputs(2, 7), kind.weights('w8a8')
    wanted = actions(kind.forward(weights, 2, 9, beside=0), given)
    for beside in (1, 2, 5):
        assert torch.equal(actions(kind.forward(weights, 2, 9, beside=beside), given), wanted)


def test_a_read_that_waits_for_nothing_is_found(watch, weights, monkeypatch):
    monkeypatch.setattr(Lane, 'after', lambda self, mark: None)
    actions(PI05Forward(weights, 2, 9, beside=1), inputs(2, 7), watch)
    assert any('lane 0' in race and race.endswith('in 1') for race in watch.races)


def test_what_is_behind_a_lane_waits_for_it(watch):
    buffer = torch.zeros(4)
    with watch:
        with Lane(CPU) as lane, lane.within():
            buffer.add_(1)
        buffer.add_(1)
    assert not watch.races and watch.operations == {0: 1, 1: 1}
    with watch, Lane(CPU) as lane:
        with lane.within():
            buffer.add_(1)
        buffer.add_(1)
    assert watch.races


def test_what_is_made_in_a_lane_and_used_outside_is_found(watch):
    with watch, Lane(CPU) as lane:
        with lane.within():
            made = torch.zeros(4) + 1
            mark = lane.mark()
        lane.after(mark)
        made.sum()
    assert watch.strays and not watch.races


def test_a_lane_comes_back_after_a_fault_too(watch):
    buffer = torch.zeros(4)
    with watch, pytest.raises(ValueError, match='in a lane'), Lane(CPU) as lane, lane.within():
        buffer.add_(1)
        raise ValueError('in a lane')
    with watch:
        buffer.add_(1)
    assert watch.operations == {0: 1, 1: 1}
    assert gpu.launch_options(CPU, 1) == {'AHEAD': False} and not watch.races


def test_attentions_side_by_side_do_not_count_each_others_programs():
    with own_counters():
        found = [counters(8, CPU)]
        with Lane(CPU) as lane:
            with lane.within():
                found.append(counters(8, CPU))
            found.append(counters(8, CPU))
    assert found[0] is found[2] is not found[1]


def test_kernels_beside_a_lane_and_the_first_behind_it_do_not_begin_early(monkeypatch):
    # The end of a stream's last kernel says nothing of another stream's.
    monkeypatch.setattr(gpu, '_options', lambda device, rows: {'AHEAD': True})
    gpu.launch_options(CPU, 1)  # behind whatever lane there was
    assert gpu.launch_options(CPU, 1)['AHEAD']
    with Lane(CPU) as lane:
        assert not gpu.launch_options(CPU, 1)['AHEAD']
        with lane.within():
            assert not gpu.launch_options(CPU, 1)['AHEAD']
    assert [gpu.launch_options(CPU, 1)['AHEAD'] for _ in range(3)] == [False, True, True]


def test_the_first_step_meets_the_prefix_right_before_its_last_layer():
    assert Beside(18, 1).meetings == set(range(18))
    assert Beside(18, 3).meetings == {1, 4, 7, 10, 13, 16, 17}
    assert Beside(18, 100).meetings == {16, 17} and Beside(1, 1).meetings == {0}
    assert not Beside(18, 0).meetings and Beside(18).meetings == Beside(18, BESIDE).meetings


@pytest.mark.parametrize('engine', KINDS)
def test_no_engine_has_races(watch, engine):
    kind = KINDS[engine]
    with torch.no_grad():
        forward = kind.made('w8a8', views=2, prompt=9)
        forward.set_inputs(*kind.samples.inputs(2, 7))
        with watch:
            forward.run()
    assert not watch.races and not watch.strays
    assert (1 in watch.operations) == (engine != 'groot')
