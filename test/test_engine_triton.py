# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The whole engine on the Triton kernels, interpreted: the same actions as the network's."""
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
from engine_samples import expected, inputs, network, relative
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.kernels import fused

cpu = torch.device('cpu')
assert fused.unavailable(cpu) is None
weights = PI05Weights(network(sys.argv[1]), cpu, torch.float32)
forward = PI05Forward(weights, views=2, prompt=9)
for name in ('images', 'text', 'noise', 'actions', '_prefix', '_keys', '_values', '_tokens',
             '_features_buffer'):
    getattr(forward, name).fill_(torch.nan)
given = inputs(2, 7, seed=2)
forward.set_inputs(*given)
with torch.no_grad():
    actions, velocity = forward.run(), forward.velocity(0, given[2])
wanted_actions, wanted_velocity = expected(network(sys.argv[1]), *given)
print(relative(actions, wanted_actions), relative(velocity, wanted_velocity))
'''


# All three kinds of operands and every part that is put together of several kernels.
@pytest.mark.parametrize('kind', ['float', 'w4a8', 'everything'])
def test_the_kernels_together_give_the_networks_actions(kind):
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, 'TRITON_INTERPRET': '1', 'PYTHONPATH': path}
    done = subprocess.run(
        [sys.executable, '-c', INTERPRETED, kind], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # One activation that is rounded to its other neighbour would be some 1e-4.
    assert all(float(error) < 1e-3 for error in done.stdout.split()), done.stdout
