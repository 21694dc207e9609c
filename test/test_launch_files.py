# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The launch files: every argument is explained, and an empty one leaves the file's value alone."""
from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))


class Recorded:
    """In place of an action or a substitution: what it was made of."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments, self.named = arguments, named

    def __repr__(self) -> str:
        return f'{type(self).__name__}{self.arguments}'


class Recording(ModuleType):
    """In place of launch and its like, which are on no package index: classes that record."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        kind = type(name, (Recorded,), {})
        setattr(self, name, kind)
        return kind


STOOD_IN_FOR = (
    'launch', 'launch.actions', 'launch.conditions', 'launch.events',
    'launch.launch_description_sources', 'launch.substitutions', 'launch_ros',
    'launch_ros.actions', 'launch_ros.event_handlers', 'launch_ros.events',
    'launch_ros.events.lifecycle', 'launch_ros.parameter_descriptions',
    'launch_ros.substitutions', 'lifecycle_msgs', 'lifecycle_msgs.msg',
)


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.name.split('.')[0] + '_launch', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def declarations(path: Path) -> dict[str, dict[str, Any]]:
    """What every argument of a file is declared with, by its name."""
    with pytest.MonkeyPatch.context() as patch:
        for name in STOOD_IN_FOR:
            patch.setitem(sys.modules, name, Recording(name))
        (entities,) = loaded(path).generate_launch_description().arguments
    return {
        entity.arguments[0]: entity.named
        for entity in entities if type(entity).__name__ == 'DeclareLaunchArgument'
    }


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_argument_has_a_description_and_a_default(path):
    declared = declarations(path)
    assert declared
    for name, keywords in declared.items():
        assert len(keywords['description']) > 20, name
        assert 'default_value' in keywords, name
        choices = keywords.get('choices')
        assert choices is None or keywords['default_value'] in choices, name


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_every_default_that_is_a_file_of_the_package_is_there(path):
    found = 0
    for keywords in declarations(path).values():
        default = keywords['default_value']
        if type(default).__name__ == 'EnvironmentVariable':
            default = default.named['default_value']
        if type(default).__name__ != 'PathJoinSubstitution':
            continue
        package, *parts = default.arguments[0]
        if package.arguments != ('quantvla_ros',) or parts[0] == 'assets':
            continue
        assert ROOT.joinpath(*parts).exists(), parts
        found += 1
    assert found


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_no_argument_is_used_that_is_not_declared(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    used = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, 'id', '') == 'LaunchConfiguration'
        and isinstance(node.args[0], ast.Constant)
    }
    assert used
    assert used <= set(declarations(path))


@pytest.mark.parametrize('name', ['demo', 'moveit'])
def test_a_file_hands_on_only_arguments_that_the_policy_file_declares(name):
    path = ROOT / f'launch/{name}.launch.py'
    tree = ast.parse(path.read_text(encoding='utf-8'))
    handed_on = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'POLICY_ARGUMENTS'
    )
    assert set(handed_on) <= set(declarations(ROOT / 'launch/policy.launch.py'))
    assert set(handed_on) <= set(declarations(path))


def test_every_parameter_that_an_argument_overrides_is_the_nodes_with_its_type():
    text = (ROOT / 'launch/policy.launch.py').read_text(encoding='utf-8')
    overrides = next(
        node.value for node in ast.parse(text).body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, 'id', '') == 'OVERRIDES'
    )
    assert isinstance(overrides, ast.Dict)
    declared = declarations(ROOT / 'launch/policy.launch.py')
    parameters = (ROOT / 'quantvla_ros/nodes/parameters.py').read_text(encoding='utf-8')
    for key in overrides.keys:
        name = ast.literal_eval(key)
        assert name in declared
        assert name == 'use_sim_time' or f"'{name}'" in parameters


def test_what_a_file_says_of_an_argument_of_its_own_replaces_what_all_say():
    policy = declarations(ROOT / 'launch/policy.launch.py')
    demo = declarations(ROOT / 'launch/demo.launch.py')
    assert policy['policy']['default_value'] == ''
    assert demo['policy']['default_value'].arguments[0][1:] == ['assets', 'tabletop_w8a8']
    assert 'own small policy' in demo['policy']['description']
    assert demo['device'] == policy['device']
    assert demo['autostart']['choices'] == ['true', 'false']


@pytest.fixture
def policy_launch() -> ModuleType:
    pytest.importorskip('launch_ros', reason='needs launch_ros, which comes with a ROS 2')
    return loaded(ROOT / 'launch/policy.launch.py')


def context_of(module: ModuleType, **given: str) -> Any:
    """What `ros2 launch` has after reading the arguments: defaults, and those given."""
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(
        dict.fromkeys(module.OVERRIDES, ''),
        params_file='p.yaml', namespace='', remappings='', autostart='true', log_level='info',
        fastdds_profile='',
    )
    context.launch_configurations.update(given)
    return context


def flattened(actions: list[Any]) -> list[Any]:
    """The actions inside the groups of `actions`."""
    from launch.actions import GroupAction

    flat = []
    for action in actions:
        inner = action.get_sub_entities() if isinstance(action, GroupAction) else [action]
        flat.extend(inner)
    return flat


def test_an_empty_argument_overrides_nothing(policy_launch):
    assert policy_launch.overrides(context_of(policy_launch)) == {}


def test_a_given_argument_overrides_its_parameter_with_its_type(policy_launch):
    context = context_of(policy_launch, policy='123', use_sim_time='true')
    overrides = policy_launch.overrides(context)
    evaluated = {name: value.evaluate(context) for name, value in overrides.items()}
    assert evaluated == {'policy': '123', 'use_sim_time': True}


def test_remappings_are_read_from_one_line(policy_launch):
    assert policy_launch.remapping_pairs(' a:=/b  c/d:=e ') == [('a', '/b'), ('c/d', 'e')]
    with pytest.raises(ValueError, match="expected 'from:=to', found 'a=b'"):
        policy_launch.remapping_pairs('a=b')


def test_without_autostart_no_transition_is_requested(policy_launch):
    from launch.actions import EmitEvent, RegisterEventHandler

    for autostart, expected in (('true', 2), ('false', 0)):
        context = context_of(policy_launch, autostart=autostart)
        actions = flattened(policy_launch.node_actions(context))
        steps = [a for a in actions if isinstance(a, EmitEvent | RegisterEventHandler)]
        assert len(steps) == 2
        assert sum(a.condition.evaluate(context) for a in steps) == expected


def test_namespace_and_profile_are_entered_only_where_given(policy_launch):
    from launch.actions import SetEnvironmentVariable
    from launch_ros.actions import PushRosNamespace

    kinds = SetEnvironmentVariable | PushRosNamespace
    plain = flattened(policy_launch.node_actions(context_of(policy_launch)))
    assert not any(isinstance(action, kinds) for action in plain)
    given = context_of(policy_launch, namespace='left', fastdds_profile='/p.xml')
    both = flattened(policy_launch.node_actions(given))
    assert sum(isinstance(action, kinds) for action in both) == 2


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_ros2_launch_lists_the_declared_arguments(path):
    pytest.importorskip('launch_ros', reason='needs launch_ros, which comes with a ROS 2')
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(path))
    listed = {argument.name for argument in description.get_launch_arguments()}
    assert listed >= set(declarations(path))
