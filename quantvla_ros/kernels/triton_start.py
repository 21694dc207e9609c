# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How kernels of few rows begin, in Triton: beside the end of the one before them.

With programmatic dependent launch (CUDA programming guide; compute capability 9.0 and later) a
kernel is on the multiprocessors when the one before it ends, which saves a launch's latency each,
and loads meanwhile what the kernels before have no part in. A kernel writes nothing before it has
waited, so the end of one is also the end of all before.

When the next kernel may come is a matter of measurement: one that comes early takes places on
multiprocessors that are about to become free, and comes to lie unevenly. Norms and what joins an
attention are small and let it come at once; products as soon as they have waited themselves;
attention when it has nothing but its result left to write. So a kernel behind a norm or a join may
read early what never changes, and one behind a product also what was written before that.
"""
import triton
import triton.language as tl


@triton.jit
def wait(AHEAD: tl.constexpr):
    """Wait until the kernel before has ended and all it wrote is seen."""
    if AHEAD:
        tl.extra.cuda.gdc_wait()


@triton.jit
def release(AHEAD: tl.constexpr):
    """Let the next kernel come to the multiprocessors, once all programs of this one say so."""
    if AHEAD:
        tl.extra.cuda.gdc_launch_dependents()
