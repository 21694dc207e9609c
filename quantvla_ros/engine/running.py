# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a loaded policy runs, as facts for logs, /diagnostics and results.

Knows words and seconds; knows nothing of torch, networks or ROS.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GRAPH, PLAIN = 'graph', 'plain'


@dataclass(frozen=True)
class Running:
    """How a policy runs.

    Attributes:
        engine: 'graph': the engine's kernels in CUDA graphs; 'plain': PyTorch's operations.
        device: as torch names it.
        fallback: what was asked for and why it does not run; None: what was asked for runs.
        tiles: where the kernels' tiles come from; '' where no kernel has any.
        prepared: for which pictures and prompts; '' where nothing has to be prepared.
        seconds: of each stage of loading, in its order.
    """

    engine: str
    device: str
    fallback: str | None = None
    tiles: str = ''
    prepared: str = ''
    seconds: Mapping[str, float] = field(default_factory=dict)

    def ready(self, seconds: float) -> str:
        """The sentence of a policy that is ready after so many seconds, warming up included."""
        stages = dict(self.seconds)
        rest = seconds - sum(stages.values())
        stages['warm-up'] = max(rest, 0.0)
        parts = ', '.join(f'{name} {value:.1f}' for name, value in stages.items())
        return f'ready in {seconds:.1f} s: {parts}'

    def facts(self) -> dict[str, str]:
        """For /diagnostics: what is always there, and what applies."""
        found = {'engine': self.engine, 'device': self.device, 'fallback': self.fallback or 'none'}
        if self.prepared:
            found['prepared for'] = self.prepared
        if self.tiles:
            found['tiles'] = self.tiles
        return found
