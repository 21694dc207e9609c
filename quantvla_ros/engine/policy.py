# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A policy ready to run: observation in, chunk of actions out.

Knows the network, its processor and where they run; knows nothing of ROS, robots or controllers.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quantvla_ros.errors import BackendError, CheckpointError
from quantvla_ros.models.architecture import Processor
from quantvla_ros.models.architectures import architecture_of, load_processor
from quantvla_ros.models.checkpoint import load_model, read_config
from quantvla_ros.models.network import Network, act
from quantvla_ros.models.tree import alike, join
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.artifact import MANIFEST, load_artifact

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


class Policy:
    """A network with its processor on one device.

    Not thread-safe: one thread infers.

    Attributes:
        info: what it is.
        device: where it runs.
    """

    def __init__(
        self, model: Network, processor: Processor, info: PolicyInfo, device: torch.device
    ) -> None:
        self.model, self.processor, self.info, self.device = model, processor, info, device

    @torch.no_grad()
    def infer(self, observation: Observation, *, seed: int | None = None) -> np.ndarray:
        """Actions for the near future.

        Args:
            observation: pictures by slot, state in the policy's order and units, the command.
            seed: of the flow's initial noise. The same seed and observation give the same chunk;
                None draws a fresh one.
        Returns:
            [chunk, action] float32 in the robot's units; row i is meant for one control period
            times (i + 1) after the observation. May hold NaN if the network does: the caller's
            guard decides.
        Raises:
            ObservationError: the observation does not fit the policy.
        """
        inputs = self.processor.inputs(observation, self.device)
        raw = act(self.model, inputs, self.noise(seed))
        return self.processor.actions(raw, observation.state)

    @torch.no_grad()
    def infer_many(
        self, observations: Sequence[Observation], seeds: Sequence[int]
    ) -> np.ndarray:
        """As `infer` for many observations at once; for simulation, where throughput counts.

        Those whose inputs have the same shapes (the same cameras, prompts of one length) run as one
        batch: not every network can tell padding from words. Equal to `infer` up to rounding.

        Returns:
            [observations, chunk, action] float32.
        """
        parts = [self.processor.inputs(observation, self.device) for observation in observations]
        chunks: dict[int, np.ndarray] = {}
        for places in alike(parts):
            noise = torch.cat([self.noise(seeds[place]) for place in places])
            raw = act(self.model, join([parts[place] for place in places]), noise)
            for place, row in zip(places, raw, strict=True):
                chunks[place] = self.processor.actions(row[None], observations[place].state)
        return np.stack([chunks[place] for place in range(len(parts))])

    def noise(self, seed: int | None) -> torch.Tensor:
        """[1, chunk, action_dim] standard normal on the device; drawn on the CPU, so that a seed
        means the same on every machine.
        """
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        shape = (1, *self.model.noise_shape)
        return torch.randn(shape, generator=generator).to(self.device)

    def warm_up(self, runs: int = 2) -> None:
        """Run on made-up inputs, so that the first real inference is as fast as the rest."""
        generator = np.random.default_rng(0)
        side = self.processor.image
        picture = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        observation = Observation(
            stamp=0,
            images=dict.fromkeys(self.processor.slots, picture),
            state=self.processor.example_state(),
            instruction='warm up',
        )
        for _ in range(runs):
            self.infer(observation, seed=0)


def load_policy(
    path: str | Path, *, device: str | torch.device = 'cpu', precision: str | None = None
) -> Policy:
    """Load a quantized artifact or a float checkpoint.

    Args:
        path: an artifact directory (`calibrate` writes one) or a checkpoint directory.
        device: 'cpu', 'cuda' or 'cuda:N'.
        precision: None for the natural one (an artifact's own; float32 on the CPU and bfloat16 on
            a GPU for a checkpoint), or one of them by name.
    Raises:
        CheckpointError, ArtifactError: the directory is incomplete, damaged or of another model.
        BackendError: that device or precision is not available here.
    """
    path, device = Path(path), check_device(device)
    if (path / MANIFEST).exists():
        return _artifact_policy(path, device, precision)
    return _checkpoint_policy(path, device, precision)


def check_device(device: str | torch.device) -> torch.device:
    """The device by its name, made sure of.

    Raises:
        BackendError: not a device, or not available here.
    """
    try:
        device = torch.device(device)
    except RuntimeError:
        raise BackendError(f'device {device}: expected cpu, cuda or cuda:N') from None
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise BackendError(
            f'device {device}: expected an NVIDIA GPU that torch can use, found none '
            f'(torch {torch.__version__}); install a CUDA build of torch, or pass device cpu'
        )
    return device


def _checkpoint_policy(path: Path, device: torch.device, precision: str | None) -> Policy:
    if precision is None:
        precision = 'bfloat16' if device.type == 'cuda' else 'float32'
    if precision not in PRECISIONS:
        raise CheckpointError(
            f'{path}: precision {precision}: a float checkpoint runs in {", ".join(PRECISIONS)}; '
            f'quantize it first: python -m quantvla_ros calibrate --checkpoint {path} ...'
        )
    config = read_config(path)
    processor = load_processor(path, config)
    model = load_model(path, device, PRECISIONS[precision])
    size = stored_bytes(model)
    info = PolicyInfo(
        artifact_id=f'float:{path.resolve().name}',
        model=architecture_of(config).kind,
        precision=precision,
        slots=processor.slots,
        state_size=processor.state_size,
        action_size=processor.action_size,
        chunk_size=model.noise_shape[0],
        execute_steps=min(processor.execute_steps or 2**31, model.noise_shape[0]),
        weight_bytes=size,
        float_bytes=size,
        state_names=processor.state_names,
        action_names=processor.action_names,
        control_period=processor.control_period,
    )
    return Policy(model, processor, info, device)


def _artifact_policy(path: Path, device: torch.device, precision: str | None) -> Policy:
    model, manifest = load_artifact(path, device)
    if precision not in (None, manifest.precision):
        raise BackendError(
            f'{path}: expected precision {manifest.precision}, which this artifact holds, asked '
            f'for {precision}; calibrate another artifact, or pass the float checkpoint'
        )
    processor = load_processor(path, read_config(path))
    info = PolicyInfo(
        artifact_id=manifest.artifact_id,
        model=manifest.model,
        precision=manifest.precision,
        slots=processor.slots,
        state_size=processor.state_size,
        action_size=processor.action_size,
        chunk_size=model.noise_shape[0],
        execute_steps=manifest.execute_steps,
        weight_bytes=stored_bytes(model),
        float_bytes=manifest.float_bytes,
        state_names=manifest.state_names,
        action_names=manifest.action_names,
        control_period=manifest.control_period,
    )
    return Policy(model, processor, info, device)


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of a network's parameters and buffers, shared ones counted once."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
