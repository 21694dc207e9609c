# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Attention and norms of the fused kernels against PyTorch's: right first, then fast.

    python benchmarks/attention.py --out DIRECTORY/attention.json [--tune] [--only NAME]

The calls of one case go into one CUDA graph and walk through more inputs than the L2 holds, as the
layers between them would drive them out; the time is the median of replays over three interleaved
rounds. Exits with 1 when a result is wrong. With --tune every attention is also timed with many
tiles, which takes minutes a case: the kernels are compiled. Needs a GPU.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from kernels import describe, hadamard, median_times, timers
from torch import Tensor

from quantvla_ros.kernels import fused_reference, triton_attention, triton_norms
from quantvla_ros.kernels.attention_tiles import Attention, AttentionTile, candidates, head_parts
from quantvla_ros.kernels.gpu import gpu_of
from quantvla_ros.kernels.rows import Rows, turn
from quantvla_ros.kernels.tile_table import Gpu, best_attention_tile

COLD = 100_000_000  # bytes of inputs, twice the L2 of an H100
MOST = 100  # calls in a graph


@dataclass(frozen=True)
class Heads:
    """One attention: queries, keys, heads, key heads, size of a head."""

    rows: int
    keys: int
    heads: int
    kv_heads: int
    size: int
    causal: bool = False
    segments: int = 1


ATTENTIONS = {
    'pi05_prefix_3_views': Heads(816, 816, 8, 1, 256),
    'pi05_prefix_2_views': Heads(532, 532, 8, 1, 256),
    'pi05_expert_3_views': Heads(50, 866, 8, 1, 256),
    'pi05_expert_2_views_chunk_10': Heads(10, 542, 8, 1, 256),
    'vision_3_views': Heads(256, 256, 16, 16, 72, segments=3),
    'groot_language': Heads(168, 168, 16, 8, 128, causal=True),
    'groot_dit_cross': Heads(49, 168, 32, 32, 48),
    'groot_dit_self': Heads(49, 49, 32, 32, 48),
    'smolvla_expert': Heads(50, 241, 15, 5, 64),
}
# kind, rows, width, and how the result becomes integers (None: it does not)
NORMS = {
    'pi05_prefix_int8': ('rms', 816, 2048, ''),
    'pi05_prefix_int8_hadamard': ('rms', 816, 2048, 'h64'),
    'pi05_prefix_int8_blocks': ('rms', 816, 2048, 'r64'),
    'pi05_prefix_bf16': ('rms', 816, 2048, None),
    'pi05_expert_int8': ('modulated', 50, 1024, ''),
    'pi05_expert_int8_hadamard': ('modulated', 50, 1024, 'h64'),
    'pi05_expert_int8_blocks': ('modulated', 50, 1024, 'r64'),
    'pi05_expert_bf16': ('modulated', 50, 1024, None),
    'vision_bf16': ('layer', 768, 1152, None),
    'pi05_down_rows_int8': ('rows', 816, 16384, ''),
    'pi05_down_rows_int8_hadamard': ('rows', 816, 16384, 'h64'),
    'pi05_expert_down_rows_int8': ('rows', 50, 4096, ''),
}


class AttentionCase:
    """Inputs of one attention, more of them than the cache holds."""

    def __init__(self, shape: Heads, device: torch.device) -> None:
        self.shape, self.scale = shape, shape.size**-0.5
        self.segment = shape.rows if shape.segments > 1 else None
        element = 2 * shape.size * shape.segments
        size = element * (shape.rows * shape.heads + 2 * shape.keys * shape.kv_heads)
        self.copies = min(MOST, max(2, COLD // size))
        generator = torch.Generator(device).manual_seed(0)

        def tensor(rows: int, heads: int) -> Tensor:
            rows *= shape.segments
            x = torch.randn(rows, heads, shape.size, device=device, generator=generator)
            return x.bfloat16()

        self.inputs = [
            (
                tensor(shape.rows, shape.heads),
                tensor(shape.keys, shape.kv_heads),
                tensor(shape.keys, shape.kv_heads),
            )
            for _ in range(self.copies)
        ]

    def ours(self, tile: AttentionTile | None = None) -> Callable[[int], Tensor]:
        """Our kernel with the chosen tile or a given one."""
        return lambda i: triton_attention.attention(
            *self.inputs[i],
            causal=self.shape.causal,
            scale=self.scale,
            segment=self.segment,
            tile=tile,
        )

    def torchs(self, i: int) -> Tensor:
        """PyTorch's attention on the same inputs."""
        shape = self.shape
        query, key, value = (
            t.unflatten(0, (shape.segments, -1)).transpose(1, 2) for t in self.inputs[i]
        )
        group = shape.heads // shape.kv_heads
        if group > 1:
            key, value = (
                t[:, :, None].expand(-1, -1, group, -1, -1).flatten(1, 2) for t in (key, value)
            )
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=shape.causal, scale=self.scale
        )

    def error(self, call: Callable[[int], Tensor]) -> float:
        """Relative error (2-norm) against the definition in float64."""
        exact = fused_reference.attention(
            *(t.double() for t in self.inputs[0]),
            causal=self.shape.causal,
            scale=self.scale,
            segment=self.segment,
        )
        found = call(0).double()
        error = float((found - exact).norm() / exact.norm())
        return error if torch.isfinite(found).all() else float('inf')

    def candidates(self, gpu: Gpu) -> list[AttentionTile]:
        """Tiles worth a look, the one in use first."""
        shape = self.shape
        sizes = Attention(
            'bfloat16', shape.rows, shape.keys, shape.heads, shape.kv_heads, shape.size,
            shape.segments, shape.causal,
        )  # fmt: skip
        others = candidates(
            sizes, processors=gpu.processors, shared=gpu.shared, capability=gpu.capability
        )
        return list(dict.fromkeys([best_attention_tile(sizes, gpu), *others]))


def norm_case(
    name: str, device: torch.device
) -> tuple[dict[str, Callable[[int], Any]], int, float]:
    """Calls of one norm, the number of inputs they walk through, and the relative error of ours."""
    kind, count, width, integers = NORMS[name]
    copies = min(MOST, max(2, COLD // (2 * count * width)))
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    inputs = [normal(count, width).bfloat16() for _ in range(copies)]
    vectors, scale_shift = (normal(width), normal(width)), (normal(width), normal(width))
    rotations = {
        'h64': lambda: hadamard(64, device),
        'r64': lambda: torch.linalg.qr(normal(width // 64, 64, 64))[0].half(),
    }
    rotation = rotations[integers]() if integers in rotations else None
    rows = None if integers is None else Rows(rotation=rotation)
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        'rms': ((vectors[0],), {'eps': 1e-6, 'offset': 1.0}),
        'modulated': ((None,), {'eps': 1e-6, 'modulation': scale_shift}),
        'layer': (vectors, {'eps': 1e-6}),
        'rows': ((), {}),
    }
    function = {'layer': 'layer_norm', 'rows': 'quantize_rows'}.get(kind, 'rms_norm')
    positional, named = arguments[kind]
    ours, definition = getattr(triton_norms, function), getattr(fused_reference, function)

    def call(i: int) -> Any:
        return ours(inputs[i], *positional, rows=rows, **named)

    def alone(i: int) -> Any:
        return ours(inputs[i], *positional, **named)

    calls: dict[str, Callable[[int], Any]] = {'ours': call}
    if kind != 'rows' and rows is not None:
        calls['norm_alone'] = alone
        calls['norm_then_rows'] = lambda i: triton_norms.quantize_rows(alone(i), rows)
    exact = inputs[0].double()
    if kind != 'rows':
        exact = definition(exact, *positional, **named)
    if rows is None:
        found = call(0).double()
    else:
        exact = turn(exact, rows, torch.float64)
        result = call(0)
        found = result.values.double() * result.scale.double()[:, None]
    return calls, copies, float((found - exact).norm() / exact.norm())


def main() -> int:
    """Run the comparison; 0 when every result was right."""
    parser = argparse.ArgumentParser(description="attention and norms against PyTorch's")
    parser.add_argument('--out', type=Path, required=True, help='JSON file to write')
    parser.add_argument('--only', default='', help='only the cases whose names contain this')
    parser.add_argument('--tune', action='store_true', help='also time many tiles')
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print('benchmarks/attention.py: expected a GPU, found none', file=sys.stderr)
        return 2
    device = torch.device('cuda', torch.cuda.current_device())
    report: dict[str, Any] = {'about': describe(device), 'attention': {}, 'norms': {}}
    wrong = 0
    for name, shape in ATTENTIONS.items():
        if args.only in name:
            result = attention_result(shape, device, args.tune)
            wrong += show(name, result, 1e-2)
            report['attention'][name] = result
    for name in NORMS:
        if args.only in name:
            calls, copies, error = norm_case(name, device)
            times = median_times(timers(calls, copies, device), 15)
            # what 8 bits leave of a modulated normal distribution
            wrong += show(name, {'error': error, 'microseconds': times}, 3e-2)
            report['norms'][name] = {'error': error, 'microseconds': times}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + '\n')
    print(f'{args.out}: {wrong} wrong, on {report["about"]["device"]}')
    return 1 if wrong else 0


def attention_result(shape: Heads, device: torch.device, tune: bool) -> dict[str, Any]:
    """Error and times of one attention; tiles, the fastest first, where asked for."""
    case = AttentionCase(shape, device)
    gpu = gpu_of(device)
    tiles = case.candidates(gpu)
    calls = {'ours': case.ours(), 'torch': case.torchs}
    result: dict[str, Any] = {
        'error': case.error(calls['ours']),
        'tile': vars(tiles[0]),
        'microseconds': median_times(timers(calls, case.copies, device), 15),
    }
    if tune:
        ranked = _timed(case, tiles, device)
        best = [tile for _, tile in ranked[:3]]
        finer = [
            replace(tile, warps=warps, stages=stages)
            for tile in best
            for warps in (2, 4, 8)
            for stages in (1, 2, 3, 4)
            if replace(tile, stages=stages).shared(sum(head_parts(shape.size)), 2) <= gpu.shared
        ]
        ranked = sorted(
            {**{t: u for u, t in ranked}, **{t: u for u, t in _timed(case, finer, device)}}.items(),
            key=lambda item: item[1],
        )
        result['tiles'] = [{'microseconds': time, **vars(tile)} for tile, time in ranked]
    return result


def _timed(
    case: AttentionCase, tiles: list[AttentionTile], device: torch.device
) -> list[tuple[float, AttentionTile]]:
    """Times of the tiles that run and are right, the fastest first."""
    from triton.runtime.errors import OutOfResources, PTXASError

    calls = {}
    for tile in tiles:
        try:
            if case.error(case.ours(tile)) < 1e-2:
                calls[tile] = case.ours(tile)
            else:
                print(f'    WRONG: {tile}', flush=True)
        except (OutOfResources, PTXASError) as fault:
            print(f'    {tile}: {fault}', flush=True)
    named = {str(tile): call for tile, call in calls.items()}
    times = median_times(timers(named, case.copies, device), 3)
    return sorted(((times[str(tile)], tile) for tile in calls), key=lambda item: item[0])


def show(name: str, result: dict[str, Any], allowed: float) -> bool:
    """Print one case; whether it was wrong."""
    times = ', '.join(f'{key} {value:.1f}' for key, value in result['microseconds'].items())
    wrong = not result['error'] < allowed
    print(f'{name}: error {result["error"]:.1e}{" WRONG" if wrong else ""}; us: {times}')
    if 'tile' in result:
        print(f'    chosen {result["tile"]}')
    for tile in result.get('tiles', [])[:3]:
        print(f'    {tile}', flush=True)
    return wrong


if __name__ == '__main__':
    sys.exit(main())
