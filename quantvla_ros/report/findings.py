# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A finished calibration as the data of its report.

Knows what calibration returns, manifests and contracts; knows nothing of pages.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from quantvla_ros.contract.types import ActionKind, ActionPart, Contract
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.calibrate import Calibration
from quantvla_ros.quantization.coverage import Coverage as Account
from quantvla_ros.quantization.layerwise import LayerRecord
from quantvla_ros.quantization.lockstep import LayerErrors
from quantvla_ros.quantization.manifest import Manifest
from quantvla_ros.quantization.matching import Corrections
from quantvla_ros.quantization.memory import QUANTIZED_PARTS
from quantvla_ros.quantization.recipe import Recipe
from quantvla_ros.quantization.stored import DTYPES
from quantvla_ros.report.calibration_data import (
    Action,
    CalibrationData,
    Change,
    ChunkError,
    Chunks,
    Coverage,
    EpisodeGroup,
    FrameResult,
    Group,
    Header,
    HeadResult,
    HeldOut,
    LayerResult,
    LeftOut,
    MemoryRow,
)

FRAMES = 6  # held-out observations that are shown
_WORST = 3  # of them, those with the largest error; the rest are spread over the others
_OVERHEAD = frozenset(
    {'weight_scale', 'group_scale', 'input_scale', 'rotation', 'output_rotation', 'permutation'}
)
_OTHER = 'norms, biases and tables outside linear layers'


def findings(
    calibration: Calibration,
    manifest: Manifest,
    *,
    model: Any,
    recipe: Recipe,
    contract: Contract,
    account: Account,
    bags: Mapping[str, str],
    held_out: Sequence[Observation],
    restore: Callable[[Any, np.ndarray], np.ndarray],
    dtypes: Mapping[str, Any],
    moments: Sequence[tuple[str, float]] = (),
) -> CalibrationData:
    """Everything that the report shows.

    Args:
        model: the quantized network.
        bags: hash by name.
        held_out: the observations of `calibration.chunks`, in that order.
        restore: ([1, chunk, action] normalised actions, state) to the robot's units; see
            models.architecture.Processor.actions.
        dtypes: how the checkpoint stores each tensor, by name.
        moments: episode and s since its beginning of each held-out observation; empty: not known.
    """
    content = manifest.content
    return CalibrationData(
        header=Header(
            robot=contract.robot,
            artifact_id=manifest.artifact_id,
            recipe=recipe.name,
            recipe_text=recipe.text,
            precision=manifest.precision,
            layout=recipe.layout.name,
            model=manifest.model,
            date=content['created'],
            seed=content['calibration']['seed'],
            versions=content['versions'],
            float_bytes=manifest.float_bytes,
            quantized_bytes=manifest.quantized_bytes,
            samples=content['calibration']['samples'],
            held_out=content['calibration']['held_out'],
            linear_layers=len(model.linear_places()),
            kept=recipe.layout.kept(model),
        ),
        layers=tuple(_layer(record) for record in calibration.layers),
        head=_head(calibration.corrections),
        held_out=HeldOut(
            corrected=ChunkError(**vars(calibration.corrected)),
            uncorrected=ChunkError(**vars(calibration.uncorrected)),
            steps=calibration.step_errors,
        ),
        chunks=_chunks(calibration, contract, held_out, restore, moments),
        memory=memory_rows(manifest, calibration.layers, model, dtypes),
        coverage=coverage_of(account, bags, calibration.notes),
        interface=calibration.interface,
        limit=recipe.temperature.log_clip,
    )


def _layer(record: LayerRecord) -> LayerResult:
    before, after = record.quality.rounded, record.quality.quantized
    return LayerResult(
        name=record.name,
        role=record.place.role.value,
        part=record.place.part.value,
        bits=record.format.weight_bits,
        shape=record.shape,
        error=None if before is None or after is None else Change(before, after),
        input_max=record.input_largest,
        input_rms=record.input_rms,
        outlier_ratio=record.outlier,
    )


def _head(found: Corrections) -> tuple[HeadResult, ...]:
    mlp = found.beta_mlp or (None,) * len(found.beta)
    return tuple(
        HeadResult(
            alpha=alpha,
            beta=beta,
            beta_mlp=beta_mlp,
            logits=Change(_over_heads(before), _over_heads(after)),
            output=Change(before.attention, after.attention),
            mlp=Change(before.mlp, after.mlp),
        )
        for alpha, beta, beta_mlp, before, after in zip(
            found.alpha, found.beta, mlp, found.before, found.after, strict=True
        )
    )


def _over_heads(errors: LayerErrors) -> float:
    """Root mean square over the heads."""
    return math.sqrt(sum(error**2 for error in errors.logits) / max(len(errors.logits), 1))


def _chunks(
    calibration: Calibration,
    contract: Contract,
    held_out: Sequence[Observation],
    restore: Callable[[Any, np.ndarray], np.ndarray],
    moments: Sequence[tuple[str, float]],
) -> Chunks:
    normalised = [chunks.float().cpu() for chunks in (calibration.float_chunks, calibration.chunks)]
    teacher, student = (chunks.numpy() for chunks in normalised)
    apart, size = (
        np.linalg.norm(x.reshape(len(x), -1).astype(np.float64), axis=1)
        for x in (student - teacher, teacher)
    )
    errors = apart / np.maximum(size, 1e-30)
    frames = []
    for index in chosen(errors):
        observation = held_out[index]
        episode, time = moments[index] if moments else ('', None)
        frames.append(
            FrameResult(
                pictures={
                    camera.name: observation.images[camera.slot]
                    for camera in contract.cameras if camera.slot in observation.images
                },
                instruction=observation.instruction,
                episode=episode,
                time=time,
                teacher=restore(normalised[0][index : index + 1], observation.state),
                student=restore(normalised[1][index : index + 1], observation.state),
                error=float(errors[index]),
            )
        )
    actions = [_action(part, name, contract) for part in contract.action.parts
               for name in part.names]
    return Chunks(tuple(actions), contract.control_period, tuple(frames))


def chosen(errors: np.ndarray) -> list[int]:
    """Observations to be shown: the worst, and some spread over the rest; the worst first."""
    order = np.argsort(-np.nan_to_num(errors, nan=np.inf), kind='stable').tolist()
    rest = order[_WORST:]
    places = np.linspace(0, len(rest) - 1, min(FRAMES - _WORST, len(rest))).round().astype(int)
    return order[:_WORST] + [rest[place] for place in places]


def _action(part: ActionPart, name: str, contract: Contract) -> Action:
    if part.kind is ActionKind.GRIPPER and part.model_range is not None:
        closed, opened = part.model_range  # chunks hold the policy's numbers, not joint positions
        ends = (min(closed, opened), max(closed, opened))
        return Action(f'{name} ({closed:g} closed, {opened:g} open)', '', ends)
    limit = contract.limits.get(name) if part.kind is ActionKind.JOINT_POSITION else None
    return Action(name, part.unit, (limit.lower, limit.upper) if limit else None)


def memory_rows(
    manifest: Manifest,
    layers: Sequence[LayerRecord],
    model: Any,
    dtypes: Mapping[str, Any],
) -> tuple[MemoryRow, ...]:
    """Bytes by what layers are for; they add up to those of checkpoint and artifact."""
    places = model.linear_places()
    shapes = {record.name: record.shape for record in layers}
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    overhead: dict[str, int] = {}
    for name, entry in manifest.content['tensors'].items():
        owner, _, kind = name.rpartition('.')
        part = places[owner].role.value if owner in places else _OTHER
        elements = math.prod(entry['shape'])
        size = elements * DTYPES[entry['dtype']].itemsize
        after[part] = after.get(part, 0) + size
        if kind in _OVERHEAD and owner in shapes:
            overhead[part] = overhead.get(part, 0) + size
        elif name in dtypes:
            before[part] = before.get(part, 0) + elements * dtypes[name].itemsize
    for name, shape in shapes.items():
        part, dtype = places[name].role.value, dtypes.get(f'{name}.weight')
        before[part] = before.get(part, 0) + math.prod(shape) * (dtype.itemsize if dtype else 0)
    missing = manifest.float_bytes - sum(before.values())
    if missing:
        before[_OTHER] = before.get(_OTHER, 0) + missing
    roles = dict.fromkeys([*(place.role.value for place in places.values()), _OTHER])
    return tuple(
        MemoryRow(
            part[:1].upper() + part[1:],
            before.get(part, 0),
            after.get(part, 0),
            _share(overhead.get(part, 0), after.get(part, 0)),
            part in {role.value for role in QUANTIZED_PARTS},
        )
        for part in roles if part in before or part in after
    )


def _share(overhead: int, whole: int) -> str:
    if not overhead:
        return ''
    return f'{100 * overhead / whole:.2g} % of it scales and rotations'


def coverage_of(account: Account, bags: Mapping[str, str], notes: Sequence[str] = ()) -> Coverage:
    """What the observations cover, what was left out, and what to know about both."""
    readings = account.readings
    left_out: Counter[tuple[str, str]] = Counter()
    for loss in readings.broken:
        left_out[loss.topic, loss.reason] += loss.count
    for loss in readings.refused:
        left_out[loss.topic, f'no observation: {loss.reason}'] += loss.count
    if account.constant:
        left_out['frames', 'constant: they repeat the one before them'] = account.constant
    for bag, reason in readings.bags_left_out.items():
        left_out[bag, f'the whole bag: {reason}'] = 1
    return Coverage(
        episodes=tuple(
            EpisodeGroup(episode, instruction, found, used)
            for (episode, instruction), (found, _, used) in account.by(
                'episode', 'instruction'
            ).items()
        ),
        phases=tuple(
            Group(phase, found, used)
            for (phase,), (found, _, used) in account.by('phase').items()
        ),
        left_out=tuple(LeftOut(*key, count) for key, count in left_out.items()),
        warnings=(*(caution.text for caution in account.cautions()), *notes),
        bags=bags,
    )
