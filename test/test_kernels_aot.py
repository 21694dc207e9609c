# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels compiled ahead of time for each GPU, without one.

With QUANTVLA_AOT=all every configuration for every GPU.
"""
import importlib.util
import os
import re

import pytest
from kernel_compilation import INTEGER, SHARED, TF32, chips, compile_for

from quantvla_ros.kernels.tiles import choose_tile

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)
if os.environ.get('TRITON_INTERPRET'):
    pytest.skip('kernels are interpreted here', allow_module_level=True)

@pytest.mark.parametrize(
    ('capability', 'rows', 'even'),
    [
        *((chip, 16, True) for chip in chips(110)),
        *((chip, 50, False) for chip in chips(87, 120)),
        *((chip, 816, True) for chip in chips(89, 90)),
    ],
)
def test_a_tile_compiles_to_integer_matrix_instructions(capability, rows, even):
    from quantvla_ros.kernels.triton_kernels import scaled_matmul_kernel

    tile = choose_tile(rows, 2048, processors=16, shared=SHARED[capability])
    compiled = compile_for(
        capability,
        scaled_matmul_kernel,
        {
            'q_ptr': '*i8',
            'weight_ptr': '*i8',
            'scale_ptr': '*fp32',
            'weight_scale_ptr': '*fp32',
            'bias_ptr': '*fp32',
            'y_ptr': '*bf16',
            'M': 'i32',
            'N': 'i32',
            'K': 'i32',
        },
        {
            'HAS_BIAS': not even,
            'EVEN_K': even,
            'BLOCK_M': tile.rows,
            'BLOCK_N': tile.outputs,
            'BLOCK_K': tile.columns,
        },
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    assert re.search(INTEGER, compiled.asm['ptx']), f'{tile} on sm_{capability}'
    assert compiled.metadata.shared <= SHARED[capability]


@pytest.mark.parametrize(
    ('capability', 'rows', 'group', 'even'),
    [
        *((chip, 10, 0, True) for chip in chips(87)),
        *((chip, 50, 128, True) for chip in chips(87, 90, 120)),
        *((chip, 50, 0, False) for chip in chips(110)),
        *((chip, 816, 0, True) for chip in chips(89, 90)),
        *((chip, 816, 128, True) for chip in chips(90)),
    ],
)
def test_packed_weights_go_from_registers_into_integer_matrix_instructions(
    capability, rows, group, even
):
    from quantvla_ros.kernels.triton_kernels import packed_matmul_kernel

    tile = choose_tile(
        rows, 2048, processors=16, shared=SHARED[capability], packed=True, group=group
    )
    compiled = compile_for(
        capability,
        packed_matmul_kernel,
        {
            'q_ptr': '*i8',
            'weight_ptr': '*u8',
            'group_scale_ptr': '*u8',
            'scale_ptr': '*fp32',
            'weight_scale_ptr': '*fp32',
            'bias_ptr': '*fp32',
            'y_ptr': '*bf16',
            'M': 'i32',
            'N': 'i32',
            'units': 'i32',
        },
        {
            'UNIT': 16 if even else 8,
            'GROUP': group,
            'SCALE_SUMS': tile.rows <= 64,
            'HAS_BIAS': not even,
            'EVEN_K': even,
            'PTX': True,
            'BLOCK_M': tile.rows,
            'BLOCK_N': tile.outputs,
            'BLOCK_J': tile.columns // 2,
        },
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    ptx = compiled.asm['ptx']
    assert re.search(INTEGER, ptx), f'{tile} on sm_{capability}'
    # Unpacked weights in the shared memory would cost what packing saves.
    assert 'local_alloc %' not in compiled.asm['ttgir']
    assert compiled.metadata.shared <= SHARED[capability]
    assert len(re.findall(r'cp\.async\.\S*global', ptx)) >= 3  # weights, even and odd columns


ROWS = {
    'x_ptr': '*bf16',
    'order_ptr': '*i32',
    'step_ptr': '*fp32',
    'q_ptr': '*i8',
    'scale_ptr': '*fp32',
    'K': 'i32',
}
FLAGS = {'PERMUTED': False, 'STATIC': False, 'SPLIT': False, 'LARGEST': 127.0, 'SMALLEST': 1e-30}


@pytest.mark.parametrize(
    ('capability', 'one_pass'),
    [*((chip, True) for chip in chips(87, 110)), *((chip, False) for chip in chips(90))],
)
def test_the_row_kernel_compiles(one_pass, capability):
    from quantvla_ros.kernels.triton_rows import quantize_rows_kernel

    compile_for(
        capability,
        quantize_rows_kernel,
        ROWS,
        {**FLAGS, 'PERMUTED': one_pass, 'STATIC': one_pass, 'BLOCK': 2048, 'ONE_PASS': one_pass},
        num_warps=4,
        enable_fp_fusion=False,
    )


# The large ones compile for long, hence for the GPU with the least shared memory only.
@pytest.mark.parametrize(
    ('capability', 'blocks', 'block', 'precision', 'warps'),
    [
        *((chip, 16, 64, 'tf32', 4) for chip in chips(90, 110)),
        *((chip, 16, 64, 'tf32x3', 4) for chip in chips(87, 120)),
        (89, 256, 64, 'tf32', 8),
        (89, 128, 128, 'tf32', 8),
    ],
)
def test_the_rotating_row_kernel_compiles(capability, blocks, block, precision, warps):
    from quantvla_ros.kernels.triton_rows import rotate_rows_kernel

    compiled = compile_for(
        capability,
        rotate_rows_kernel,
        {**ROWS, 'rotation_ptr': '*fp16'},
        {
            **FLAGS,
            'SPLIT': True,
            'B': block,
            'PRECISION': precision,
            'BLOCKS': blocks,
            'BLOCK': block,
        },
        num_warps=warps,
        enable_fp_fusion=False,
    )
    assert re.search(TF32, compiled.asm['ptx'])
    assert compiled.metadata.shared <= SHARED[capability]


@pytest.mark.parametrize(
    ('capability', 'block', 'warps', 'quantize'),
    [
        *((chip, 64, 4, True) for chip in chips(87, 90, 110)),
        *((chip, 64, 4, False) for chip in chips(120)),
        (89, 128, 8, True),
    ],
)
def test_the_kernel_of_one_rotation_per_block_compiles(capability, quantize, block, warps):
    from quantvla_ros.kernels.triton_rows import rotate_blocks_kernel

    compiled = compile_for(
        capability,
        rotate_blocks_kernel,
        {
            **ROWS,
            'rotation_ptr': '*fp16',
            'largest_ptr': '*i32',
            'M': 'i32',
            'rotation_stride': 'i32',
        },
        {
            **FLAGS,
            'PERMUTED': True,
            'B': block,
            'QUANTIZE': quantize,
            'PRECISION': 'tf32x3' if block == 128 else 'tf32',
            'ROWS': 64,
            'BLOCK': block,
        },
        num_warps=warps,
        enable_fp_fusion=False,
    )
    assert re.search(TF32, compiled.asm['ptx'])
    assert compiled.metadata.shared <= SHARED[capability]
