# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The fused products: interpreted on the CPU, run on a GPU if there is one; the choice of tiles."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quantvla_ros.kernels.gemm_tiles import (
    GemmTile,
    Product,
    candidates,
    choose_gemm_tile,
    fitted,
)

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)

from gemm_cases import CASES, KINDS, run

# bytes of shared memory that one program may use on Orin, Ada and Blackwell desktops, Hopper
SHARED = [163 * 1024, 99 * 1024, 227 * 1024]


# Triton decides at import whether to interpret, hence processes of their own.
@pytest.mark.parametrize('case', CASES)
def test_interpreted_products_are_what_the_definition_says(case):
    program = Path(__file__).with_name('gemm_cases.py')
    environment = {
        **os.environ,
        'TRITON_INTERPRET': '1',
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join(sys.path),
    }
    result = subprocess.run(
        [sys.executable, str(program), case], env=environment, capture_output=True, text=True
    )
    if 'only 0-dimensional arrays can be converted' in result.stderr:
        pytest.skip('this Triton (3.6) cannot interpret a loop with this NumPy (2.4)')
    assert result.returncode == 0 and 'done' in result.stdout, result.stdout + result.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('case', CASES)
def test_products_on_the_gpu_are_what_the_definition_says(case):
    run(case, 'cuda')


@pytest.mark.parametrize('shared', SHARED)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rows', [1, 16, 17, 50, 64, 65, 816, 8192])
@pytest.mark.parametrize(
    ('outputs', 'columns', 'head'), [(1, 1, 0), (2048, 16384, 0), (32768, 2048, 0), (2560, 588, 64)]
)
def test_a_chosen_tile_fits_and_wastes_no_rows(shared, kind, rows, outputs, columns, head):
    kind, _, group = kind.partition(' of ')
    product = Product(kind, rows, outputs, columns, head > 0, head, int(group or 0))
    tiles = [choose_gemm_tile(product, processors=16, shared=shared)]
    tiles += candidates(product, shared=shared)
    for tile in tiles:
        assert tile.shared(kind) <= shared
        assert tile.stages >= 2 or tile.columns * tile.split >= columns  # else one step holds all
        assert not group or int(group) % tile.columns == 0
        assert tile.left or kind != 'int4'
        assert not head or tile.outputs == 2 * head  # a normed head is one tile
        for size in (tile.rows, tile.outputs, tile.columns, tile.warps, tile.split):
            assert size & (size - 1) == 0
    if rows <= 64:
        assert rows <= tiles[0].rows < 2 * max(rows, 16)


def test_columns_are_split_where_tiles_are_few():
    # 50 x 1024 outputs are 16 tiles: the other multiprocessors of an H100 would do nothing
    few = Product('int8', 50, 1024, 4096)
    assert choose_gemm_tile(few, processors=132, shared=227 * 1024).split > 1
    assert choose_gemm_tile(few, processors=16, shared=163 * 1024).split == 1
    many = Product('int8', 816, 32768, 2048)
    assert choose_gemm_tile(many, processors=132, shared=227 * 1024).split == 1


def test_a_tile_of_one_step_is_a_pipeline_where_one_step_cannot_be():
    limits = {'shared': SHARED[2]}
    one = GemmTile(64, 64, 1024, 8, 1)
    assert fitted(one, Product('int8', 50, 8192, 1024), **limits) == one
    for product in (
        Product('int8', 50, 8192, 4096),  # longer than a step
        Product('float32', 50, 8192, 1024),  # larger than the memory
        Product('int4', 50, 8192, 1024, group=128),
    ):
        tile = fitted(one, product, **limits)
        assert tile.stages >= 2 and tile.shared(product.kind) <= SHARED[2]
        assert not product.group or product.group % tile.columns == 0


def test_candidates_are_not_measured_twice():
    product = Product('int4', 50, 2048, 1024, group=128)
    found = list(candidates(product, shared=227 * 1024))
    assert len(set(found)) == len(found) >= 4
