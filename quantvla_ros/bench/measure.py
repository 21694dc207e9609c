# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The order of work of a benchmark: each precision, each way to run it, times and what came out.

Knows workloads, systems and clocks; knows nothing of how the result is shown. Everything that is
compared comes from one process: the same device, weights, inputs and noise.
"""
from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from quantvla_ros.bench import machine
from quantvla_ros.bench.clock import Spread, device_times, host_times, warm
from quantvla_ros.bench.networks import FLOATS, make_network
from quantvla_ros.bench.roofline import Ceilings, Work, count_work, measure_ceilings
from quantvla_ros.bench.running import Running, System, plain_parts
from quantvla_ros.bench.systems import BASELINES
from quantvla_ros.bench.workload import Workload
from quantvla_ros.engine.policy import stored_bytes
from quantvla_ros.errors import BackendError
from quantvla_ros.models.network import act

FORMAT = 1
# How far, relative, the same network may be from itself by other kernels. bfloat16 rounds to 2**-9
# at every layer anew, and a value between two integers may become the one or the other.
SAME = {'float32': 1e-3}
NEARLY_SAME = 0.05


@dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
        runs: of each figure.
        warm_up: seconds before each.
        baseline_runs: of each figure of a baseline, which may be many times slower; None: as many.
    """

    runs: int = 200
    warm_up: float = 3.0
    baseline_runs: int | None = None

    def __post_init__(self) -> None:
        for name, runs in (('runs', self.runs), ('baseline-runs', self.baseline_runs)):
            if runs is not None and runs < 1:
                raise BackendError(f'{name}: expected at least 1, found {runs}')
        if not 0.0 <= self.warm_up <= 600.0:
            raise BackendError(f'warm-up: expected 0 to 600 s, found {self.warm_up}')


@dataclass(frozen=True)
class Output:
    """What a network gave, on the host, float32."""

    actions: Tensor
    velocity: Tensor

    @classmethod
    def of(cls, actions: Tensor, velocity: Tensor) -> Output:
        """Copies."""
        return cls(*(tensor.float().cpu().clone() for tensor in (actions, velocity)))

    @property
    def finite(self) -> bool:
        """Whether all actions are numbers."""
        return bool(torch.isfinite(self.actions).all())

    def error(self, reference: Output) -> dict[str, float]:
        """Relative to a reference, 2-norm: of the actions and of the first velocity."""
        return {
            'first_velocity': _relative(self.velocity, reference.velocity),
            'actions': _relative(self.actions, reference.actions),
        }


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def bench(
    workload: Workload,
    systems: Mapping[str, Sequence[System]],
    device: torch.device,
    settings: Settings,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Measure everything.

    Args:
        systems: what runs, by precision.
    Yields:
        What `--out` writes (see docs/bench.md), each time that a precision is done: the whole at
        last, `complete`.
    """
    if device.index is not None and device.type == 'cuda':
        torch.cuda.set_device(device)  # events and graphs are of the current one
    about = machine.describe(device)
    progress('what the device does at best')
    ceilings = measure_ceilings(device, seconds=min(settings.warm_up, 1.0))
    run = _Run(workload, device, settings, progress)
    reference = run.reference(list(systems))
    # What the others are compared with comes first.
    for precision in sorted(systems, key=lambda name: name != reference):
        run.precision(precision, systems[precision])
        for row in run.rows:
            if is_done(row):
                run.judge(row, reference)
                _bound(row, run.works[row['precision']], ceilings)
        _speedups(run.rows)
        yield {
            'format': FORMAT,
            'complete': len(run.works) == len(systems),
            'about': about,
            'workload': {
                'name': workload.name if workload.directory is None else workload.directory.name,
                'model': workload.kind,
                'weights': 'random' if workload.directory is None else 'of the directory',
                'integers': 'calibrated' if workload.artifact else 'rounded to the nearest',
                **asdict(workload.lengths),
                'camera': list(next(iter(workload.observation.images.values())).shape),
            },
            'settings': asdict(settings),
            'reference': reference,
            'ceilings': {
                'operations_per_s': dict(ceilings.operations),
                'bytes_per_s': ceilings.bandwidth,
                'seen': dict(ceilings.seen),
            },
            'work': {
                name: {part: asdict(work) for part, work in works.items()}
                for name, works in run.works.items()
            },
            'rows': run.rows,
        }


def is_done(row: Mapping[str, Any]) -> bool:
    """Whether a row was run to its end."""
    return 'failed' not in row and 'left_out' not in row


class _Run:
    """What has been found so far."""

    def __init__(
        self, workload: Workload, device: torch.device, settings: Settings,
        progress: Callable[[str], None],
    ) -> None:
        self.workload, self.device, self.settings = workload, device, settings
        self.progress = progress
        self.rows: list[dict[str, Any]] = []
        self.works: dict[str, dict[str, Work]] = {}
        self._plain: dict[str, Output] = {}  # by precision
        self._found: dict[int, Output] = {}  # by place in `rows`

    def precision(self, precision: str, systems: Sequence[System]) -> None:
        """One network, run in every way."""
        self.progress(f'{precision}: weights')
        network = make_network(self.workload, precision, self.device)
        inputs, noise = self._inputs(), self._noise(network)
        self._plain[precision] = self._eager(network, inputs, noise)
        parts = plain_parts(network, inputs, noise)
        self.works[precision] = {name: count_work(network, call) for name, call in parts.items()}
        weight_bytes = stored_bytes(network)
        del parts
        for system in systems:
            self.progress(f'{precision} {system.name}')
            row: dict[str, Any] = {
                'precision': precision, 'system': system.name, 'title': system.title,
            }
            self.rows.append(row)
            refusal = system.refusal(network, self.workload, self.device)
            if refusal is not None:
                row['left_out'] = refusal
                continue
            row['weight_bytes'] = weight_bytes
            failure = self._measure(row, system, network, inputs, noise)
            if failure is not None:
                row['failed'] = failure
            gc.collect()
        del network
        gc.collect()
        machine.reset_memory(self.device)

    def _measure(
        self, row: dict[str, Any], system: System, network: Any, inputs: Any, noise: Tensor
    ) -> str | None:
        """Fill a row; why not, where that cannot be."""
        device, settings, runs = self.device, self.settings, self.settings.runs
        if system.name in BASELINES and settings.baseline_runs is not None:
            runs = settings.baseline_runs
        gc.collect()
        machine.reset_memory(device)
        try:
            running = system.start(network, self.workload, inputs, noise)
            warm(running.run, device, settings.warm_up)
            self._found[len(self.rows) - 1] = Output.of(running.run(), running.first_velocity())
            machine.reset_memory(device)  # what getting ready took is not what running takes
            times = device_times(running.run, device, runs)
            once = self._whole(running)
            warm(once, device, 0.0)
            row['device_ms'] = Spread.of(times).as_json()
            row['wall_ms'] = Spread.of(host_times(once, device, runs)).as_json()
            row['memory_bytes'] = machine.memory(device)
            row['parts_ms'] = {}
            for name, part in running.parts().items():
                warm(part.call, device, min(settings.warm_up, 0.5))
                found = device_times(part.call, device, max(1, runs // 4), part.before)
                row['parts_ms'][name] = Spread.of(found).as_json()
            row['device_ms_of_each_run'] = [round(time, 4) for time in times]
        # Whatever it is (memory, a kernel, a compiler), it is what this row has to say: the others
        # are still worth their time.
        except Exception as error:
            traceback.print_exc()
            first = next(iter(str(error).strip().splitlines()), '')
            return f'{type(error).__name__}: {first[:300]}'
        return None

    def _whole(self, running: Running) -> Callable[[], object]:
        """From pictures on the host to a chunk in the robot's units on the host."""
        processor, observation = self.workload.processor, self.workload.observation
        return lambda: processor.actions(running.whole(observation), observation.state)

    def _inputs(self) -> Any:
        return self.workload.processor.inputs(self.workload.observation, self.device)

    def _noise(self, network: Any) -> Tensor:
        """The same for all."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn((1, *network.noise_shape), generator=generator).to(self.device)

    @torch.no_grad()
    def _eager(self, network: Any, inputs: Any, noise: Tensor) -> Output:
        first: list[Tensor] = []

        def keep(step: int, x: Tensor, velocity: Tensor) -> None:
            if step == 0:
                first.append(velocity)

        return Output.of(act(network, inputs, noise, keep), first[0])

    def reference(self, precisions: Sequence[str]) -> str | None:
        """The float precision that errors are relative to; None: an artifact has none beside it.

        The most exact one of the call, or where it has none, the runtime's own, run for this alone.
        """
        own = next((precision for precision in FLOATS if precision in precisions), None)
        if own is None and not self.workload.artifact:
            own = 'bf16' if self.device.type == 'cuda' else 'float32'
            self.progress(f'{own}: what errors are relative to')
            network = make_network(self.workload, own, self.device)
            self._plain[own] = self._eager(network, self._inputs(), self._noise(network))
        return own

    def judge(self, row: dict[str, Any], reference: str | None) -> None:
        """Add a row's errors, and whether they are what they should be."""
        found, plain = self._found[self.rows.index(row)], self._plain[row['precision']]
        exact = None if reference is None else self._plain[reference]
        row['finite'] = found.finite
        row['error'] = None if exact is None else found.error(exact)
        row['error_of_plain'] = None if exact is None else plain.error(exact)
        row['from_plain'] = found.error(plain)
        row['error_beyond_plain'] = _beyond(row['error'], row['error_of_plain'])
        bound = SAME.get(row['precision'], NEARLY_SAME)
        row['right'] = row['finite'] and all(e <= bound for e in row['from_plain'].values())


def _beyond(
    error: Mapping[str, float] | None, plain: Mapping[str, float] | None
) -> float | None:
    """By how much the first velocity's error is more than plain PyTorch's, as a share of that."""
    own, other = ((e or {}).get('first_velocity') for e in (error, plain))
    return None if own is None or not other else own / other - 1


def _bound(row: dict[str, Any], works: Mapping[str, Work], ceilings: Ceilings) -> None:
    """Add the least time for a row, and how close it comes."""
    row['least_parts_ms'] = {name: ceilings.milliseconds(work) for name, work in works.items()}
    row['least_ms'] = sum(row['least_parts_ms'].values())
    row['share_of_roofline'] = row['least_ms'] / row['device_ms']['p50']


def _speedups(rows: Sequence[dict[str, Any]]) -> None:
    """Add how many times faster each row is than plain PyTorch in float, and than our float engine.

    By the medians on the device.
    """
    done = {(row['precision'], row['system']): row for row in rows if is_done(row)}
    for name, system in (('over_eager', 'eager'), ('over_float_engine', 'engine')):
        base = next(
            (done[p, system] for p in ('bf16', 'float32') if (p, system) in done), None
        )
        for row in done.values():
            row.setdefault('speedup', {})[name] = (
                None if base is None else base['device_ms']['p50'] / row['device_ms']['p50']
            )
