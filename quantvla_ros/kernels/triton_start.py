# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a kernel of the engine begins, in Triton: beside the end of the one before it.

With programmatic dependent launch (CUDA programming guide; compute capability 9.0 and later) a
kernel is on the multiprocessors when the one before it ends, which saves a launch's latency each.
Everything a kernel does before `begin` must not depend on what runs: sizes, addresses, weights.
"""
import triton
import triton.language as tl


@triton.jit
def wait(AHEAD: tl.constexpr, EARLY: tl.constexpr):
    """Wait until the kernel before has ended and all it wrote is seen.

    Every kernel waits like this before it reads or writes, so a kernel's end is also the end of all
    before it.
    """
    if AHEAD == 1 or (AHEAD == 3 and EARLY):
        tl.extra.cuda.gdc_launch_dependents()
    if AHEAD > 0:
        tl.extra.cuda.gdc_wait()


@triton.jit
def release(AHEAD: tl.constexpr):
    """Let the next kernel come to the multiprocessors, once all programs of this one say so."""
    if AHEAD >= 2:
        tl.extra.cuda.gdc_launch_dependents()
