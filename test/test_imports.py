# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The import direction of docs/architecture.md holds, and the check can see when it does not."""
from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location('check_imports', ROOT / 'scripts/check_imports.py')
assert SPEC is not None and SPEC.loader is not None
check_imports = importlib.util.module_from_spec(SPEC)
sys.modules['check_imports'] = check_imports
SPEC.loader.exec_module(check_imports)


def violations(tmp_path: Path, file: str, source: str) -> list[str]:
    (tmp_path / 'docs').mkdir()
    page = (ROOT / 'docs/architecture.md').read_text(encoding='utf-8')
    (tmp_path / 'docs/architecture.md').write_text(page, encoding='utf-8')
    path = tmp_path / 'quantvla_ros' / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding='utf-8')
    return check_imports.check(tmp_path)


def test_this_package_keeps_the_import_direction():
    assert check_imports.check(ROOT) == []


def test_the_order_is_read_from_the_architecture_page():
    order = check_imports.read_order(ROOT / 'docs/architecture.md')
    assert order['errors'] < order['contract'] < order['models'] < order['nodes'] < order['cli']
    assert order['control'] == order['observation']


@pytest.mark.parametrize(
    ('file', 'source', 'part'),
    [
        ('contract/load.py', 'from quantvla_ros.models import processor\n', 'to the left only'),
        ('contract/load.py', 'import quantvla_ros.nodes.policy\n', 'to the left only'),
        ('contract/load.py', 'from ..engine.policy import load_policy\n', 'to the left only'),
        ('contract/load.py', 'from quantvla_ros import load_policy\n', 'to the left only'),
        ('control/guard.py', 'from quantvla_ros.observation.types import Observation\n', 'peers'),
        ('engine/policy.py', 'def f():\n    import rclpy\n', 'only nodes know ROS'),
        ('engine/policy.py', 'from sensor_msgs.msg import Image\n', 'only nodes know ROS'),
        ('engine/policy.py', 'from quantvla_ros.msg import ActionChunk\n', 'only nodes know ROS'),
        (
            'sim/tabletop/world.py',
            'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rclpy\n',
            'only nodes know ROS',
        ),
        ('control/guard.py', 'import torch.nn\n', 'must not import torch'),
        ('cli/policy.py', 'import rclpy\n', 'inside run'),
        ('helpers/text.py', 'import re\n', 'no place in the order'),
        ('cli/policy.py', 'def run(a):\n    import quantvla_ros.helpers\n', 'no place'),
    ],
)
def test_a_violation_is_named_with_its_file_and_line(tmp_path, file, source, part):
    found = violations(tmp_path, file, source)
    assert len(found) == 1
    assert part in found[0]
    assert found[0].startswith(f'quantvla_ros/{file}:')


@pytest.mark.parametrize(
    ('file', 'source'),
    [
        ('engine/policy.py', 'import torch\nfrom quantvla_ros.models.processor import Processor\n'),
        ('nodes/policy.py', 'import rclpy\nfrom quantvla_ros.msg import ActionChunk\n'),
        ('cli/policy.py', 'def run(args):\n    from quantvla_ros.nodes import policy\n'),
        ('cli/main.py', 'from quantvla_ros import __version__\n'),
        ('sim/tabletop/__init__.py', 'from .world import Tabletop\nfrom . import scene\n'),
        ('contract/load.py', 'from . import types\nfrom ..errors import ContractError\n'),
        ('control/guard.py', 'import launchpad\nimport numpy as np\n'),
    ],
)
def test_what_is_allowed_passes(tmp_path, file, source):
    assert violations(tmp_path, file, source) == []


def test_a_command_may_import_of_the_nodes_at_the_top_only_what_needs_no_ros(tmp_path):
    nodes = tmp_path / 'quantvla_ros/nodes'
    nodes.mkdir(parents=True)
    (nodes / '__init__.py').write_text('')
    (nodes / 'process.py').write_text('def run():\n    import rclpy\n')
    (nodes / 'policy.py').write_text('from quantvla_ros.nodes import process\nimport rclpy\n')
    source = (
        'from quantvla_ros.nodes.process import run\n'
        'from quantvla_ros.nodes.policy import PolicyNode\n'
        'def main():\n'
        '    from quantvla_ros.nodes.policy import PolicyNode\n'
    )
    (found,) = violations(tmp_path, 'cli/policy.py', source)
    assert found.startswith('quantvla_ros/cli/policy.py:2: cli imports quantvla_ros.nodes.policy')


def test_the_command_ends_with_status_1_on_a_violation(tmp_path):
    violations(tmp_path, 'contract/load.py', 'import rclpy\n')
    command = [sys.executable, str(ROOT / 'scripts/check_imports.py'), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == (
        'quantvla_ros/contract/load.py:1: contract must not import rclpy: only nodes know ROS\n'
    )
