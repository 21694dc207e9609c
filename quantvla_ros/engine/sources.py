# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A directory that holds a policy: what surrounds its network, and the network on any device.

Knows checkpoints and artifacts; knows nothing of how a network is run.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from quantvla_ros.errors import BackendError, CheckpointError
from quantvla_ros.models.architecture import Processor
from quantvla_ros.models.architectures import architecture_of, load_processor
from quantvla_ros.models.checkpoint import load_model, read_config
from quantvla_ros.models.network import Network
from quantvla_ros.quantization.artifact import MANIFEST, load_artifact
from quantvla_ros.quantization.manifest import Manifest, read_manifest

PRECISIONS = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


@dataclass(frozen=True)
class PolicyInfo:
    """What a policy is and what it wants of a robot.

    Attributes:
        artifact_id: short hash of a quantized artifact, or 'float:NAME' of a checkpoint.
        precision: 'float32', 'bfloat16' or the recipe's scheme, as 'w8a8'.
        slots: image features in the network's order.
        state_names, action_names: None where the file does not say (public checkpoints).
        control_period: s between actions of a chunk, None where the file does not say.
        execute_steps: actions to run of each chunk before the next, as trained or configured.
        weight_bytes: of this policy's parameters and buffers.
        float_bytes: of the float policy it stands for, in the checkpoint's own dtype.
    """

    artifact_id: str
    model: str
    precision: str
    slots: tuple[str, ...]
    state_size: int
    action_size: int
    chunk_size: int
    execute_steps: int
    weight_bytes: int
    float_bytes: int
    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    control_period: float | None = None


class Source(Protocol):
    """A policy's directory.

    Attributes:
        path: the directory.
        kind: of its architecture.
        quantized: whether layers are integers.
    """

    path: Path
    kind: str
    quantized: bool

    @property
    def processor(self) -> Processor:
        """What surrounds the network."""
        ...

    def network(
        self, device: torch.device, runs_on: torch.device, *, mapped: bool = False
    ) -> tuple[Network, torch.dtype, PolicyInfo]:
        """The network, its floating point type, and what the policy is.

        Args:
            device: where the weights go.
            runs_on: where they will be calculated with, which decides about their types.
            mapped: as `models.checkpoint.load_model`.
        """
        ...


def open_source(path: Path, precision: str | None) -> Source:
    """A directory by what it holds, its weights not yet read.

    Raises:
        CheckpointError, ArtifactError: it is incomplete, damaged or of another model.
        BackendError: it cannot run in that precision.
    """
    if (path / MANIFEST).exists():
        return _Artifact(path, precision)
    return _Checkpoint(path, precision)


class _Checkpoint:
    quantized = False

    def __init__(self, path: Path, precision: str | None) -> None:
        if precision is not None and precision not in PRECISIONS:
            raise CheckpointError(
                f'{path}: precision {precision}: a float checkpoint runs in '
                f'{", ".join(PRECISIONS)}; quantize it first: '
                f'python -m quantvla_ros calibrate --checkpoint {path} ...'
            )
        self.path, self._precision = path, precision
        config = read_config(path)
        self.kind = architecture_of(config).kind
        self._processor = load_processor(path, config)

    @property
    def processor(self) -> Processor:
        """As `Source`."""
        return self._processor

    def network(
        self, device: torch.device, runs_on: torch.device, *, mapped: bool = False
    ) -> tuple[Network, torch.dtype, PolicyInfo]:
        """As `Source`."""
        precision = self._precision or ('bfloat16' if runs_on.type == 'cuda' else 'float32')
        model = load_model(self.path, device, PRECISIONS[precision], mapped=mapped)
        chunk, size = model.noise_shape[0], stored_bytes(model)
        info = PolicyInfo(
            **_surroundings(self.processor),
            artifact_id=f'float:{self.path.resolve().name}',
            model=self.kind,
            precision=precision,
            chunk_size=chunk,
            execute_steps=min(self.processor.execute_steps or 2**31, chunk),
            weight_bytes=size,
            float_bytes=size,
            state_names=self.processor.state_names,
            action_names=self.processor.action_names,
            control_period=self.processor.control_period,
        )
        return model, PRECISIONS[precision], info


class _Artifact:
    quantized = True

    def __init__(self, path: Path, precision: str | None) -> None:
        manifest = read_manifest(path)
        if precision not in (None, manifest.precision):
            raise BackendError(
                f'{path}: expected precision {manifest.precision}, which this artifact holds, '
                f'asked for {precision}; calibrate another artifact, or pass the float checkpoint'
            )
        self.path, self.kind = path, manifest.model
        self._processor: Processor | None = None

    @property
    def processor(self) -> Processor:
        """Read after the network: only then are the files known to be those of the manifest."""
        if self._processor is None:
            self._processor = load_processor(self.path, read_config(self.path))
        return self._processor

    def network(
        self, device: torch.device, runs_on: torch.device, *, mapped: bool = False
    ) -> tuple[Network, torch.dtype, PolicyInfo]:
        """As `Source`."""
        dtype = torch.bfloat16 if runs_on.type == 'cuda' else torch.float32
        model, manifest = load_artifact(self.path, device, dtype, mapped=mapped)
        return model, dtype, _artifact_info(model, manifest, self.processor)


def _artifact_info(model: Any, manifest: Manifest, processor: Processor) -> PolicyInfo:
    return PolicyInfo(
        **_surroundings(processor),
        artifact_id=manifest.artifact_id,
        model=manifest.model,
        precision=manifest.precision,
        chunk_size=model.noise_shape[0],
        execute_steps=manifest.execute_steps,
        weight_bytes=stored_bytes(model),
        float_bytes=manifest.float_bytes,
        state_names=manifest.state_names,
        action_names=manifest.action_names,
        control_period=manifest.control_period,
    )


def _surroundings(processor: Processor) -> dict[str, Any]:
    return {
        'slots': processor.slots,
        'state_size': processor.state_size,
        'action_size': processor.action_size,
    }


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of a network's parameters and buffers, shared ones counted once."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
