# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The table of parameters, its documentation and the parameter files say the same."""
from pathlib import Path

import pytest
import yaml

from quantvla_ros.control.guard import Reason as DropReason
from quantvla_ros.nodes.parameters import POLICY_PARAMETERS, TABLETOP_PARAMETERS, markdown
from quantvla_ros.nodes.states import Cause
from quantvla_ros.observation.types import Reason

ROOT = Path(__file__).resolve().parents[1]
DOCS = (ROOT / 'docs/node.md').read_text(encoding='utf-8')
TABLES = {'policy': POLICY_PARAMETERS, 'tabletop': TABLETOP_PARAMETERS}


@pytest.mark.parametrize('node', TABLES)
def test_the_documented_table_is_the_declared_one(node):
    """Print it anew with `python -m quantvla_ros.nodes.parameters`."""
    assert markdown(TABLES[node]) in DOCS


@pytest.mark.parametrize('node', TABLES)
def test_the_parameter_file_holds_every_parameter_at_its_default(node):
    content = yaml.safe_load((ROOT / f'config/{node}.yaml').read_text())
    given = content['/**']['ros__parameters']
    assert given == {p.name: p.default for p in TABLES[node]}
    for p in TABLES[node]:  # ROS takes 20 for an integer where 20.0 is declared, and refuses it
        assert type(given[p.name]) is type(p.default), p.name


@pytest.mark.parametrize('parameter', [p for table in TABLES.values() for p in table],
                         ids=lambda p: p.name)
def test_every_parameter_is_described_and_every_number_has_a_range(parameter):
    assert parameter.description.endswith('.')
    number = isinstance(parameter.default, (int, float)) and not isinstance(parameter.default, bool)
    assert (parameter.range is not None) == number
    if parameter.range is not None:
        assert parameter.range[0] <= parameter.default <= parameter.range[1]


@pytest.mark.parametrize(
    'sentence', [reason.value for kind in (Cause, DropReason, Reason) for reason in kind]
)
def test_every_reason_the_node_can_give_is_documented(sentence):
    assert sentence in DOCS
