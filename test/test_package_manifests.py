# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The manifests say the same: versions, dependencies, messages."""
from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import quantvla_ros
from quantvla_ros.nodes.goal import Outcome

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = sorted((ROOT / 'msg').glob('*.msg'))
ACTIONS = sorted((ROOT / 'action').glob('*.action'))


def names(requirements: str) -> set[str]:
    """Distribution names in a requirements file."""
    lines = (ROOT / 'scripts' / requirements).read_text(encoding='utf-8').splitlines()
    stripped = (re.split(r'[\[=<>;#\s]', line, maxsplit=1)[0] for line in lines)
    return {re.sub(r'[-_.]+', '-', name).lower() for name in stripped if name}


def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def dependencies() -> set[str]:
    return {
        element.text or ''
        for element in manifest()
        if element.tag in ('depend', 'exec_depend', 'build_depend', 'test_depend')
    }


def test_all_manifests_have_one_version():
    version = quantvla_ros.__version__
    assert manifest().findtext('version') == version
    changelog = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
    released = re.findall(r'^(\d+\.\d+\.\d+)', changelog, re.MULTILINE)
    assert version in released or 'Forthcoming' in changelog


def test_every_required_distribution_is_pinned():
    pinned = names('constraints.txt')
    for requirements in ('requirements.txt', 'requirements-ros.txt', 'requirements-test.txt'):
        assert names(requirements) - pinned == set(), requirements


def test_every_pin_is_exact():
    for line in (ROOT / 'scripts/constraints.txt').read_text(encoding='utf-8').splitlines():
        if line and not line.startswith('#'):
            assert re.match(r'[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*(; python_version .*)?$', line)


def test_setup_py_and_the_set_up_script_install_the_same_libraries():
    tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup'
    )
    lists = {k.arg: ast.literal_eval(k.value) for k in call.keywords
             if k.arg in ('install_requires', 'extras_require')}
    wanted = [*lists['install_requires'], *lists['extras_require']['demo']]
    by_setup_py = {re.split(r'[<>=]', name)[0].lower() for name in wanted}
    assert by_setup_py == names('requirements.txt') | {'torch'}
    test_extra = {name.lower() for name in lists['extras_require']['test']}
    assert test_extra | {'triton'} == names('requirements-test.txt')


def test_every_ros_package_that_is_imported_has_a_key():
    imported = set()
    for path in (ROOT / 'quantvla_ros').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split('.')[0])
    ros = re.compile(r'(rclpy|rcl_interfaces|builtin_interfaces|std_srvs|\w+_msgs)$')
    assert {name for name in imported if ros.match(name)} <= dependencies()


def test_the_messages_need_no_package_that_is_not_declared():
    used = {'action_msgs'}  # of every action
    for message in (*MESSAGES, *ACTIONS):
        used |= set(re.findall(r'^(\w+)/\w+', message.read_text(encoding='utf-8'), re.MULTILINE))
    cmake = (ROOT / 'CMakeLists.txt').read_text(encoding='utf-8')
    listed = re.search(r'DEPENDENCIES ([\w ]+)\n', cmake)
    assert listed is not None
    assert used == set(listed[1].split())
    assert used <= dependencies()


@pytest.mark.parametrize('message', [*MESSAGES, *ACTIONS], ids=lambda path: path.stem)
def test_every_message_is_built_and_every_field_follows_the_conventions(message):
    cmake = (ROOT / 'CMakeLists.txt').read_text(encoding='utf-8')
    assert f'"{message.parent.name}/{message.name}"' in cmake
    for line in message.read_text(encoding='utf-8').splitlines():
        if not line or line.startswith('#') or line == '---':
            continue
        constant = re.match(r'u?int\d+ ([A-Z][A-Z0-9_]*)=\d+$', line)
        field = re.match(r'[\w/\[\]]+ [a-z][a-z0-9_]*$', line)
        assert constant or field, line


def test_every_end_of_a_goal_has_its_number_in_the_action():
    text = (ROOT / 'action/RunPolicy.action').read_text(encoding='utf-8')
    numbers = dict(re.findall(r'^uint8 ([A-Z_]+)=(\d+)$', text, re.MULTILINE))
    assert numbers.keys() == {outcome.name for outcome in Outcome}
    assert sorted(map(int, numbers.values())) == list(range(len(numbers)))


def test_a_state_of_the_policy_is_one_number():
    text = (ROOT / 'msg/PolicyStatus.msg').read_text(encoding='utf-8')
    numbers = re.findall(r'^uint8 [A-Z_]+=(\d+)$', text, re.MULTILINE)
    assert sorted(map(int, numbers)) == list(range(len(numbers)))


def test_the_built_messages_are_those_of_the_source_tree():
    msg = pytest.importorskip('quantvla_ros.msg', reason='the package is not built here')
    for message in MESSAGES:
        fields = getattr(msg, message.stem).get_fields_and_field_types()
        text = message.read_text(encoding='utf-8')
        in_source = re.findall(r'^[\w/\[\]]+ ([a-z][a-z0-9_]*)$', text, re.MULTILINE)
        assert list(fields) == in_source
