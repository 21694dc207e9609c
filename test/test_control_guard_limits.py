# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Limits of several sources: only ever narrower, and read as URDF and MoveIt mean them."""
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantvla_ros.contract.types import JointLimit
from quantvla_ros.control.limits import narrowed, tightened, wider
from quantvla_ros.control.robot_description import moveit_limits, urdf_limits
from quantvla_ros.errors import ContractError

URDF = """<?xml version="1.0"?>
<robot name="bench">
  <joint name="shoulder" type="revolute">
    <limit lower="-2.0" upper="0.8" velocity="1.5" effort="10"/>
    <safety_controller soft_lower_limit="-1.9" soft_upper_limit="0.7" k_velocity="1"/>
  </joint>
  <joint name="wrist" type="continuous"><limit velocity="3.0" effort="1"/></joint>
  <joint name="slide" type="prismatic"><limit upper="0.4" velocity="0.2" effort="1"/></joint>
  <joint name="base" type="fixed"/>
</robot>
"""
MOVEIT = """
default_velocity_scaling_factor: 0.1
joint_limits:
  shoulder:
    has_velocity_limits: true
    max_velocity: 1.2
    has_acceleration_limits: true
    max_acceleration: 3.0
    has_jerk_limits: false
    max_jerk: 1.0
  wrist:
    has_velocity_limits: true
    max_velocity: !degrees 90.0
    has_position_limits: true
    min_position: -1
    max_position: 1
"""


def limit(**given) -> JointLimit:
    return JointLimit(**{'lower': -1.0, 'upper': 1.0, 'velocity': 2.0} | given)


def test_a_urdf_says_positions_velocities_and_which_joints_turn_without_end():
    limits = urdf_limits(URDF)
    assert set(limits) == {'shoulder', 'wrist', 'slide'}
    assert (limits['shoulder'].lower, limits['shoulder'].upper) == (-1.9, 0.7)  # the soft ones
    assert limits['shoulder'].velocity == 1.5 and limits['shoulder'].acceleration is None
    assert limits['wrist'].continuous and limits['wrist'].lower == -math.inf
    assert (limits['slide'].unit, limits['slide'].lower) == ('m', 0.0)


def test_moveits_limits_hold_where_their_switch_is_on_and_degrees_are_turned(tmp_path):
    path = tmp_path / 'joint_limits.yaml'
    path.write_text(MOVEIT)
    limits = moveit_limits(path, {'shoulder': 'rad', 'wrist': 'rad', 'slide': 'm'})
    assert set(limits) == {'shoulder', 'wrist'}
    shoulder = limits['shoulder']
    assert (shoulder.velocity, shoulder.acceleration, shoulder.jerk) == (1.2, 3.0, None)
    assert shoulder.lower == -math.inf
    assert limits['wrist'].velocity == pytest.approx(math.pi / 2)
    assert (limits['wrist'].lower, limits['wrist'].upper) == (-1.0, 1.0)


@pytest.mark.parametrize(('old', 'new', 'part'), [
    ('max_velocity: 1.2', 'max_velocity: fast', 'shoulder.max_velocity'),
    ('max_velocity: 1.2', 'max_velocity: true', 'shoulder.max_velocity'),
    ('max_velocity: 1.2', '', 'shoulder.max_velocity'),
    ('max_velocity: 1.2', 'max_velocity: .nan', 'finite'),
    ('joint_limits:', 'limits:', 'joint_limits'),
    ('!degrees 90.0', '!degrees x', 'no number'),
    ('joint_limits:', 'joint_limits: [', 'YAML'),
])
def test_a_wrong_joint_limits_file_is_named(tmp_path, old, new, part):
    path = tmp_path / 'joint_limits.yaml'
    path.write_text(MOVEIT.replace(old, new, 1))
    with pytest.raises(ContractError, match=part):
        moveit_limits(path, {'shoulder': 'rad', 'wrist': 'rad'})


@pytest.mark.parametrize(('text', 'part'), [
    ('bench.urdf', 'expected a URDF'),
    ('<model/>', '<model>'),
    (URDF.replace('1.5', 'fast'), 'joint shoulder: velocity'),
    ('<!DOCTYPE a [<!ENTITY b "c">]><robot/>', 'DOCTYPE'),
])
def test_a_wrong_robot_description_is_named(text, part):
    with pytest.raises(ContractError, match=part):
        urdf_limits(text)


def test_of_two_sources_the_narrower_number_holds_each_by_itself():
    mine = {'shoulder': limit(acceleration=4.0), 'other': limit()}
    both = tightened(mine, urdf_limits(URDF), 'robot_description')
    assert both['shoulder'] == JointLimit(-1.0, 0.7, 1.5, acceleration=4.0)
    assert both['other'] == mine['other']


@pytest.mark.parametrize(('other', 'part'), [
    (limit(unit='m'), 'unit'),
    (limit(lower=1.5, upper=2.0), r'\[1.5, 2\]'),
    (limit(velocity=0.0), 'above 0'),
])
def test_sources_that_contradict_each_other_are_refused(other, part):
    with pytest.raises(ContractError, match=part):
        tightened({'shoulder': limit()}, {'shoulder': other}, 'robot_description')


def rates():
    return st.one_of(st.none(), st.floats(0.1, 10.0))


def joint_limits():
    return st.builds(
        JointLimit, st.floats(-2.0, -1.0), st.floats(1.0, 2.0), st.floats(0.1, 9.0),
        st.just('rad'), rates(), rates(),
    )


@given(joint_limits(), joint_limits())
def test_tightened_limits_are_never_wider_than_either(one, two):
    both = tightened({'a': one}, {'a': two}, 'the other')
    assert wider({'a': one}, both) == wider({'a': two}, both) == []


@given(joint_limits(), st.floats(0.01, 1.0))
def test_narrowed_limits_are_never_wider(one, share):
    assert wider({'a': one}, narrowed({'a': one}, share)) == []


@pytest.mark.parametrize('share', [0.0, -1.0, 1.01, math.nan])
def test_a_share_that_widens_or_stops_all_is_refused(share):
    with pytest.raises(ContractError, match='share'):
        narrowed({'a': limit()}, share)


@pytest.mark.parametrize('change', [
    {'lower': -1.1}, {'upper': 1.1}, {'velocity': 2.1}, {'acceleration': None}, {'jerk': 101.0},
    {'continuous': True, 'lower': -math.inf, 'upper': math.inf},
])
def test_what_gets_wider_is_named(change):
    before = limit(acceleration=5.0, jerk=100.0)
    after = limit(**{'acceleration': 5.0, 'jerk': 100.0} | change)
    assert wider({'a': before}, {'a': after})
    assert wider({'a': before}, {}) == ['a: has no limits any more']
