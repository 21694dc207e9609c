# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whole engines on the Triton kernels, interpreted: the same actions as the network's."""
import importlib.util
import os
import subprocess
import sys

import pytest

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)

# Triton decides at import whether to interpret, hence a process of its own.
INTERPRETED = '''
import sys
import torch
from engine_kinds import CPU, KINDS, run
from engine_samples import relative
from quantvla_ros.kernels import fused

assert fused.unavailable(CPU) is None
kind, recipe = KINDS[sys.argv[1]], sys.argv[2]
forward = kind.made(recipe, views=2, prompt=9)
kind.samples.spoil(forward)
given = kind.samples.inputs(2, 7, seed=2)
actions = run(forward, given)
with torch.no_grad():
    velocity = forward.velocity(0, given[-1])
wanted_actions, wanted_velocity = kind.samples.expected(kind.samples.network(recipe), *given)
print(relative(actions, wanted_actions), relative(velocity, wanted_velocity))
'''


# All three kinds of operands and every part that is put together of several kernels. An activation
# that is rounded to its other neighbour is up to some 1e-4, in SmolVLA's narrow expert 1e-2.
@pytest.mark.parametrize(
    ('kind', 'recipe', 'limit'),
    [
        ('pi05', 'float', 1e-3),
        ('pi05', 'w4a8', 1e-3),
        ('pi05', 'everything', 1e-3),
        ('smolvla', 'float', 1e-5),
        ('smolvla', 'w4a8', 5e-2),
        ('smolvla', 'everything', 5e-2),
        ('groot', 'w4a8', 1e-3),
    ],
)
def test_the_kernels_together_give_the_networks_actions(kind, recipe, limit):
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': path}
    done = subprocess.run(
        [sys.executable, '-c', INTERPRETED, kind, recipe],
        env=environment, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(float(error) < limit for error in done.stdout.split()), done.stdout
