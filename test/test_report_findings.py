# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A finished calibration as the report's data: nothing lost, nothing in the wrong unit."""
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from quantvla_ros.contract.load import load_contract
from quantvla_ros.models.roles import Part, Place, Role
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization import calibrate
from quantvla_ros.quantization.coverage import Loss, Readings, covered
from quantvla_ros.quantization.layerwise import LayerRecord
from quantvla_ros.quantization.lockstep import LayerErrors
from quantvla_ros.quantization.manifest import Manifest
from quantvla_ros.quantization.matching import Corrections
from quantvla_ros.quantization.quantize import Quality
from quantvla_ros.quantization.recipe import LayerFormat
from quantvla_ros.quantization.recipe_file import load_recipe
from quantvla_ros.report.findings import FRAMES, chosen, findings
from quantvla_ros.report.page import render

ROOT = Path(__file__).resolve().parents[1]


class Net:
    """What the report asks of a network: one quantized layer, one float layer, one table."""

    def linear_places(self):
        return {
            'layer': Place(Role.BACKBONE_MLP, Part.DOWN),
            'head.q': Place(Role.HEAD_ATTENTION, Part.QUERY),
        }

    def named_modules(self):
        return [('head.q', torch.nn.Linear(4, 4))]


def finished():
    """A calibration by hand, with its manifest: layer is 8 x 4, 4 bits in one group."""
    form = LayerFormat(4, 4, 8, 'dynamic_per_token', 'none', 4, False, False)
    record = LayerRecord(
        'layer', Place(Role.BACKBONE_MLP, Part.DOWN), form, (8, 4), Quality(0.1, 0.05), 3.0, 1.0,
        2.0,
    )
    errors = (LayerErrors((0.3, 0.4), 0.1, 0.2),)
    teacher = torch.zeros(9, 6, 2)
    teacher[..., 0] = 1.0
    student = teacher.clone()
    student[:, 0, 1] = torch.arange(9) / 100
    error = calibrate.ChunkError(0.01, 0.02, 0.03)
    calibration = calibrate.Calibration(
        layers=(record,),
        corrections=Corrections(((1.1, 0.9),), (1.05,), None, {}, errors, errors),
        interface={}, notes=('beta of layer 0 could not be estimated',), float32_tensors=(),
        uncorrected=error, corrected=error, step_errors=(0.02, 0.03), float_chunks=teacher,
        chunks=student,
    )
    tensors = {
        'layer.weight_packed': ('U8', [8, 2]), 'layer.group_scale': ('U8', [8, 1]),
        'layer.weight_scale': ('F32', [8]), 'head.q.weight': ('BF16', [4, 4]),
        'norm.weight': ('F32', [4]),
    }
    manifest = Manifest(
        {
            'created': '2026-01-02T03:04:05+00:00', 'versions': {}, 'artifact_id': 'ab',
            'precision': 'w4a8', 'model': {'type': 'pi05'},
            'bytes': {'float': 8 * 4 * 2 + 4 * 4 * 2 + 4 * 4, 'quantized': 16 + 8 + 32 + 32 + 16},
            'calibration': {'seed': 0, 'samples': 1, 'held_out': 9},
            'tensors': {name: {'dtype': d, 'shape': shape} for name, (d, shape) in tensors.items()},
        }
    )
    return calibration, manifest


@pytest.fixture
def found():
    calibration, manifest = finished()
    contract = load_contract(ROOT / 'config/contracts/tabletop.yaml')
    kept = contract.action.parts[0]
    parts = (dataclasses.replace(kept, names=kept.names[:1]), contract.action.parts[1])
    contract = dataclasses.replace(
        contract, action=dataclasses.replace(contract.action, parts=parts)
    )
    picture = np.zeros((8, 8, 3), np.uint8)
    observations = [
        Observation(0, {c.slot: picture for c in contract.cameras}, np.zeros(5), f'do {i}')
        for i in range(9)
    ]
    account = covered(
        10, {('lift', 'e0', 'still'): 5}, {('lift', 'e0', 'still'): 2}, [('lift', 'e0', 'still')],
        ['still'], Readings(broken=(Loss('a', '/t', 'cut', 2), Loss('b', '/t', 'cut', 3))),
    )
    return findings(
        calibration, manifest, model=Net(), recipe=load_recipe(ROOT / 'config/recipes/w4a8.yaml'),
        contract=contract, account=account, bags={'a': 'ab'}, held_out=observations,
        restore=lambda raw, state: 2 * raw[0].numpy(),
        dtypes={'layer.weight': torch.bfloat16, 'head.q.weight': torch.bfloat16,
                'norm.weight': torch.float32},
    )


def test_memory_adds_up_to_checkpoint_and_artifact_with_scales_named(found):
    # Papers leave scales and rotations out; a reader must see what really lies on the disk.
    assert sum(row.float_bytes for row in found.memory) == found.header.float_bytes == 112
    assert sum(row.quantized_bytes for row in found.memory) == found.header.quantized_bytes == 104
    (layer,) = [row for row in found.memory if row.part == 'MLP of the language backbone']
    assert (layer.float_bytes, layer.quantized_bytes) == (64, 56)
    assert layer.note.startswith('71 %')  # 40 of 56 bytes


def test_frames_are_the_worst_and_some_others_in_the_robots_units(found):
    assert len(found.chunks.frames) == FRAMES
    assert [frame.instruction for frame in found.chunks.frames[:3]] == ['do 8', 'do 7', 'do 6']
    assert found.chunks.frames[-1].instruction == 'do 0'
    worst = found.chunks.frames[0]
    assert worst.student[0, 1] == pytest.approx(0.16) and worst.teacher[0, 0] == 2.0
    assert worst.error == pytest.approx(0.08 / math.sqrt(6))
    assert set(worst.pictures) == {'overhead', 'wrist'}


def test_a_gripper_is_shown_in_the_policys_numbers_not_in_rad(found):
    joint, gripper = found.chunks.actions
    assert (joint.unit, gripper.unit) == ('rad', '')
    assert gripper.name == 'gripper (0 closed, 1 open)' and gripper.bounds == (0.0, 1.0)
    assert joint.bounds is not None and joint.bounds[0] < joint.bounds[1]


def test_what_was_left_out_is_summed_over_bags_and_notes_become_warnings(found):
    counts = {(entry.topic, entry.reason): entry.count for entry in found.coverage.left_out}
    assert counts['/t', 'cut'] == 5
    assert counts['frames', 'constant: they repeat the one before them'] == 2
    assert 'beta of layer 0 could not be estimated' in found.coverage.warnings
    assert 'beta of layer 0 could not be estimated' in render(found)


def test_a_chunk_that_is_not_finite_is_shown_first():
    assert chosen(np.array([0.1, math.nan, 0.2]))[0] == 1
