# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The example and the key table in docs/contract.md are what the loader takes."""
import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from quantvla_ros.contract.load import parse_contract
from quantvla_ros.contract.types import (
    ActionKind,
    Freshness,
    GripperKind,
    Output,
    OutputKind,
    Safety,
)
from quantvla_ros.errors import ContractError

TEXT = (Path(__file__).resolve().parents[1] / 'docs' / 'contract.md').read_text()
EXAMPLE = re.search(r'```yaml\n(.*?)```', TEXT, re.S).group(1)


def test_the_documented_example_loads():
    assert parse_contract(EXAMPLE).robot == 'bench_arm'


def paths(value, prefix=()):
    """All ways to a mapping's entry in the example, names of robot parts included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*prefix, key)
            yield from paths(item, (*prefix, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*prefix, index))


# Joints are named at more than one place, and a camera may go as long as another one stays.
KEYS = [path for path in paths(yaml.safe_load(EXAMPLE))
        if (path[0] != 'limits' or len(path) == 1) and path != ('cameras', 'overhead')]


@pytest.mark.parametrize('path', KEYS, ids=lambda path: '.'.join(map(str, path)))
def test_the_documented_default_is_true_of_every_key(path):
    """Without a key: a fault where the table shows no default, none where it does."""
    content = yaml.safe_load(EXAMPLE)
    place = content
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    optional = path[0] in ('state', 'freshness') and len(path) == 1
    optional |= path[0] == 'freshness'
    optional |= path[-1] in ('required', 'default', 'max_length', 'recorded_topic')
    optional |= path == ('cameras', 'wrist')
    text = yaml.safe_dump(content, sort_keys=False)
    if optional:
        parse_contract(text)
    else:
        with pytest.raises(ContractError, match=re.escape(str(path[-1]))):
            parse_contract(text)


def test_defaults_in_the_table_are_those_of_the_code():
    for field in dataclasses.fields(Freshness):
        row = re.search(rf'freshness\.{field.name}`[^\n]*', TEXT).group(0)
        assert f'| {field.default} |' in row
    for kind in ActionKind:
        assert f'| `{kind.value}` |' in TEXT


def test_the_faults_shown_are_the_faults_given():
    shown = re.search(r"found the unknown key 'tpic'; did you mean 'topic'\?", TEXT).group(0)
    with pytest.raises(ContractError, match=re.escape(shown)):
        parse_contract(EXAMPLE.replace('topic: wrist', 'tpic: wrist'))


def test_outputs_grippers_and_safety_are_documented_with_their_defaults():
    for kind in OutputKind:
        assert f'| `{kind.value}` |' in TEXT
    for gripper in GripperKind:
        assert f'`{gripper.value}`' in TEXT
    for field in dataclasses.fields(Safety):
        row = re.search(rf'safety\.{field.name}`[^\n]*', TEXT).group(0)
        assert f'| {"null" if field.default is None else field.default} |' in row
    assert '| [1, 4] | 1.5 |' in TEXT and '| 50 |' in TEXT and Output.rate == 50.0
