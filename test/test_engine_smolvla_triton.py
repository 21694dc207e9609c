# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's SmolVLA on the Triton kernels, interpreted: the same actions as the network's."""
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
from engine_samples import relative
from engine_smolvla_samples import expected, inputs, network
from quantvla_ros.engine.smolvla import SmolVLAForward, SmolVLAWeights
from quantvla_ros.kernels import fused

cpu = torch.device('cpu')
assert fused.unavailable(cpu) is None
forward = SmolVLAForward(SmolVLAWeights(network(sys.argv[1]), cpu, torch.float32), 2, 9)
for name, tensor in vars(forward).items():
    kept = ('_nothing', '_scale', '_euler', '_cos_table', '_sin_table', '_largest')
    if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and name not in kept:
        tensor.fill_(torch.nan)
given = inputs(2, 7, seed=2)
forward.set_inputs(*given)
with torch.no_grad():
    actions, velocity = forward.run(), forward.velocity(0, given[3])
wanted_actions, wanted_velocity = expected(network(sys.argv[1]), *given)
print(relative(actions, wanted_actions), relative(velocity, wanted_velocity))
'''


# Floats and integers of one matrix, and what is put together of several kernels.
@pytest.mark.parametrize('kind', ['float', 'w4a8', 'everything'])
def test_the_kernels_together_give_the_networks_actions(kind):
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': path}
    done = subprocess.run(
        [sys.executable, '-c', INTERPRETED, kind], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # An activation that is rounded to its other neighbour is up to some 1e-2.
    limit = 1e-5 if kind == 'float' else 5e-2
    assert all(float(error) < limit for error in done.stdout.split()), done.stdout
