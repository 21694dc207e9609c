# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where an inference of the engine spends its time: the kernels of one replay, part by part.

    python benchmarks/profile_engine.py --out FILE.json [--model pi05] [--views 3]
        [--prompt-tokens 48] [--chunk 50] [--precision w8a8]

Random weights. Times are of the device's own clock (CUPTI, through torch.profiler); what lies
between kernels is what the parts take beyond the sum of their kernels. Overlapping kernels count
twice: the sum may exceed the whole. Needs a GPU.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from kernels import describe

from quantvla_ros.bench.clock import Spread, device_times, warm
from quantvla_ros.bench.networks import make_network
from quantvla_ros.bench.systems import SYSTEMS
from quantvla_ros.bench.workload import Lengths, random_workload

REPLAYS = 5


def kernels_of(call: Any) -> list[dict[str, Any]]:
    """Kernels of a captured call, longest together first: name, count and time of one call."""
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(REPLAYS):
            call()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = defaultdict(list)
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            found[event.name].append(event.time_range.elapsed_us())
    rows = [
        {
            'kernel': name[:120],
            'count': len(times) / REPLAYS,
            'us': sum(times) / REPLAYS,
            'each_us': sum(times) / len(times),
            'longest_us': max(times),
        }
        for name, times in found.items()
    ]
    return sorted(rows, key=lambda row: -row['us'])


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--model', default='pi05')
    parser.add_argument('--views', type=int, default=3)
    parser.add_argument('--prompt-tokens', type=int, default=48)
    parser.add_argument('--chunk', type=int)
    parser.add_argument('--precision', default='w8a8')
    parser.add_argument('--runs', type=int, default=50)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print('expected a GPU, found none', file=sys.stderr)
        return 2
    device = torch.device('cuda')
    lengths = Lengths(args.views, args.prompt_tokens, args.chunk, None)
    workload = random_workload(args.model, {}, lengths)
    network = make_network(workload, args.precision, device)
    inputs = workload.processor.inputs(workload.observation, device)
    noise = torch.randn((1, *network.noise_shape), device=device)
    running = SYSTEMS['engine'].start(network, workload, inputs, noise)
    found: dict[str, Any] = {
        'command': 'python benchmarks/profile_engine.py',
        **describe(device),
        'workload': vars(args) | {'out': None},
        'parts': {},
    }
    warm(running.run, device, 1.0)
    whole = Spread.of(device_times(running.run, device, args.runs)).as_json()
    found['ms'] = whole
    print(f'all: {whole["p50"]:.3f} ms')
    for name, part in running.parts().items():
        warm(part.call, device, 0.2)
        times = Spread.of(device_times(part.call, device, args.runs, part.before)).as_json()
        rows = kernels_of(part.call)
        total = sum(row['us'] for row in rows) / 1e3
        count = sum(row['count'] for row in rows)
        found['parts'][name] = {'ms': times, 'kernels_ms': total, 'kernels': rows}
        print(f'{name}: {times["p50"]:.3f} ms, {count:.0f} kernels of {total:.3f} ms')
        for row in rows[:14]:
            print(
                f'  {row["us"] / 1e3:7.3f} ms {row["count"]:6.0f} x {row["each_us"]:6.2f} us '
                f'(longest {row["longest_us"]:.2f})  {row["kernel"][:70]}'
            )
    args.out.write_text(json.dumps(found, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
