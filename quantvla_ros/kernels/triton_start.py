# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How kernels of few rows begin, in Triton: beside the end of the one before them.

With programmatic dependent launch (CUDA programming guide; compute capability 9.0 and later) a
kernel is on the multiprocessors when the one before it ends, which saves a launch's latency each.
A kernel waits before it reads or writes anything, so the end of one is also the end of all before.

When the next kernel may come is a matter of measurement: one that comes early takes places on
multiprocessors that are about to become free, and comes to lie unevenly. So products and attention
let it come when they have nothing but their result left to write, and norms, which are small, at
once.

While few rows are normed most multiprocessors have nothing to do, and the memory neither: programs
beside those of the rows ask for the weights of the products that follow (`fetch`).
"""
import triton
import triton.language as tl

PART = tl.constexpr(65536)  # bytes of a weight that a program asks for


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


@triton.jit
def fetch(first_ptr, first_size, second_ptr, second_size, program, THREADS: tl.constexpr):
    """Ask for a part of two weights, of so many bytes each, in the L2; nothing is waited for.

    Few rows leave multiprocessors and the memory idle between products: what is asked for now is
    nearer when the product that reads it comes. The first weight's parts are the first programs'.
    """
    parts = tl.cdiv(first_size, PART)
    if program < parts:
        _fetch_part(first_ptr, first_size, program, THREADS)
    else:
        _fetch_part(second_ptr, second_size, program - parts, THREADS)


@triton.jit
def _fetch_part(weight_ptr, size, part, THREADS: tl.constexpr):
    # One instruction of each thread; what lies beyond the end asks for the last bytes again.
    SIZE: tl.constexpr = PART // THREADS
    places = tl.minimum(part * PART + tl.arange(0, THREADS) * SIZE, size - SIZE)
    tl.inline_asm_elementwise(
        'cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0;',
        '=r,l,r',
        [weight_ptr.to(tl.pointer_type(tl.int8)) + places, tl.full((THREADS,), SIZE, tl.int32)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
