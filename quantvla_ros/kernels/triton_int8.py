# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""INT8 linears on NVIDIA GPUs: which tile serves which shape, and the launches.

Knows tensors, sizes and GPUs; knows nothing of models or recipes. The kernels are in
`triton_kernels`, imported at the first launch, so that this module loads where triton is not.
With TRITON_INTERPRET=1 the kernels run on CPU tensors, slowly: for tests.
"""
from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.reference import SMALLEST
from quantvla_ros.kernels.rows import Rows

_OLDEST = (8, 0)  # int8 matrix instructions with 32 columns a step (Ampere)
_ROW_BLOCK = 16384  # a row up to this length is quantized in registers in one pass


@dataclass(frozen=True)
class Tile:
    """How one program covers the result: rows x outputs x columns a step, warps, pipeline depth."""

    rows: int
    outputs: int
    columns: int
    warps: int
    stages: int

    @property
    def shared(self) -> int:
        """Bytes of shared memory that the pipeline holds."""
        return (self.rows + self.outputs) * self.columns * self.stages


# By the number of rows (tokens): the tiles to choose from and the relative speed of one, larger
# tiles reusing more of what they load. Measured with `benchmarks/kernels.py --tune`.
_TILES: tuple[tuple[int, tuple[tuple[Tile, float], ...]], ...] = (
    (16, ((Tile(16, 64, 256, 4, 4), 1.0), (Tile(16, 32, 256, 4, 4), 0.8))),
    (32, ((Tile(32, 64, 256, 4, 4), 1.0), (Tile(32, 32, 256, 4, 4), 0.8))),
    (64, ((Tile(64, 64, 256, 4, 3), 1.0), (Tile(64, 32, 256, 4, 4), 0.8))),
    (
        2**31,
        (
            (Tile(128, 256, 128, 8, 3), 1.0),
            (Tile(64, 128, 128, 4, 4), 0.93),  # two to a multiprocessor of the H100
            (Tile(128, 128, 128, 8, 3), 0.9),
            (Tile(128, 64, 128, 4, 4), 0.7),
            (Tile(64, 64, 128, 4, 4), 0.5),
        ),
    ),
)


def choose_tile(rows: int, outputs: int, *, processors: int, shared: int) -> Tile:
    """The tile with the least work on the busiest multiprocessor.

    Args:
        rows, outputs: M and N of the product.
        processors: multiprocessors of the GPU.
        shared: bytes of shared memory that one program may use.
    """
    candidates = next(tiles for largest, tiles in _TILES if rows <= largest)
    best, least = None, float('inf')
    for preferred, speed in candidates:
        tile = _fit(preferred, shared)
        if tile is None:
            continue
        tiles = -(-rows // tile.rows) * -(-outputs // tile.outputs)
        waves = -(-tiles // processors)
        work = waves * tile.rows * tile.outputs / speed
        if work < least:
            best, least = tile, work
    assert best is not None  # the smallest tile fits every GPU since Ampere
    return best


def _fit(tile: Tile, shared: int) -> Tile | None:
    """The same tile, its pipeline as deep as the shared memory allows; None: not even two."""
    for stages in range(tile.stages, 1, -1):
        shallower = Tile(tile.rows, tile.outputs, tile.columns, tile.warps, stages)
        if shallower.shared <= shared:
            return shallower
    return None


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`; None: it can."""
    if importlib.util.find_spec('triton') is None:
        return 'triton is not installed'
    if device.type == 'cpu' and _interpreted():
        return None
    if device.type != 'cuda' or torch.version.cuda is None:
        return f'it runs on NVIDIA GPUs only, not on {device.type}'
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        return f'it needs compute capability 8.0 or newer, this GPU has {capability}'
    return None


def quantize_rows(x: Tensor, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
    """Quantize each row by its own largest magnitude: [M, K] -> [M, K] int8, [M] float32."""
    from quantvla_ros.kernels.triton_kernels import quantize_rows_kernel

    if rows is not None and (rows.bits, rows.scale, rows.rotation, rows.permutation) != (
        8, None, None, None
    ):
        raise BackendError('rows: the Triton backend quantizes to 8 bits, per row, unrotated only')
    x = x.contiguous()
    count, columns = x.shape
    q = torch.empty((count, columns), dtype=torch.int8, device=x.device)
    scale = torch.empty(count, dtype=torch.float32, device=x.device)
    block = min(1 << (columns - 1).bit_length(), _ROW_BLOCK)
    with _on(x.device):
        quantize_rows_kernel[(count,)](
            x,
            q,
            scale,
            columns,
            SMALLEST=SMALLEST,
            BLOCK=block,
            ONE_PASS=columns <= block,
            num_warps=4 if block <= 2048 else 8,
            enable_fp_fusion=False,  # a fused multiply-add would round ties unlike the CPU
        )
    return q, scale


def scaled_matmul(
    q: Tensor,
    scale: Tensor,
    weight_q: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    tile: Tile | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Multiply quantized rows by quantized weights and scale back: [M, N] of `dtype`.

    Args:
        q, scale, weight_q, weight_scale, bias, dtype: as in `reference.scaled_matmul`, contiguous.
        tile: instead of the chosen one (for tuning).
        out: [M, N] contiguous, written instead of a new tensor.
    """
    from quantvla_ros.kernels.triton_kernels import scaled_matmul_kernel

    rows, columns = q.shape
    outputs = weight_q.shape[0]
    y = torch.empty((rows, outputs), dtype=dtype, device=q.device) if out is None else out
    tile = tile or _tile_on(rows, outputs, q.device)
    vectors = [v if v is None else v.contiguous() for v in (weight_scale, bias)]
    grid = (-(-rows // tile.rows) * -(-outputs // tile.outputs),)
    with _on(q.device):
        scaled_matmul_kernel[grid](
            q,
            weight_q,
            scale,
            vectors[0],
            vectors[0] if bias is None else vectors[1],
            y,
            rows,
            outputs,
            columns,
            HAS_BIAS=bias is not None,
            EVEN_K=columns % tile.columns == 0,
            BLOCK_M=tile.rows,
            BLOCK_N=tile.outputs,
            BLOCK_K=tile.columns,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return y


@functools.lru_cache(maxsize=4096)
def _tile_on(rows: int, outputs: int, device: torch.device) -> Tile:
    processors, shared = _gpu(device)
    return choose_tile(rows, outputs, processors=processors, shared=shared)


@functools.cache
def _gpu(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and bytes of shared memory that one program may use."""
    if device.type == 'cpu':
        return 8, 99 * 1024
    properties = torch.cuda.get_device_properties(device)
    shared = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return properties.multi_processor_count, shared


def _on(device: torch.device) -> torch.cuda.device:
    """Context with `device` current, as a launch needs it."""
    return torch.cuda.device(device if device.type == 'cuda' else -1)


def _interpreted() -> bool:
    return os.environ.get('TRITON_INTERPRET', '0') in ('1', 'true', 'on')
