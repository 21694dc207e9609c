# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Seeds of the flow's initial noise.

Knows numbers; knows nothing of networks.
"""
from __future__ import annotations

import numpy as np


def noise_seed(*numbers: int) -> int:
    """A seed of noise from whatever it belongs to, mixed into 32 bits.

    torch's generator on the CPU ignores all higher bits, so shifting numbers past them loses them.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
