# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Calibration is the same code for every network: here SmolVLA, with two kinds of attention."""
import dataclasses

import numpy as np
import pytest
import torch
from artifact_samples import write
from matching_samples import balance, estimation, match, shrink, temperature
from quantization_samples import contract, observations
from smolvla_samples import tiny_inputs, tiny_network, tiny_noise, write_checkpoint

from quantvla_ros.engine.policy import load_policy
from quantvla_ros.models import load_model
from quantvla_ros.models.architectures import load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.models.network import act
from quantvla_ros.quantization.artifact import load_artifact
from quantvla_ros.quantization.calibrate import calibrate
from quantvla_ros.quantization.gather import watch
from quantvla_ros.quantization.layout import LAYOUTS
from quantvla_ros.quantization.matching import HeadSample, copy_head
from quantvla_ros.quantization.memory import memory, quantized_parts
from quantvla_ros.quantization.recipe_file import load_recipe
from quantvla_ros.quantization.smoothing import equalize


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    robot = contract()
    return write_checkpoint(
        tmp_path_factory.mktemp('smolvla') / 'checkpoint',
        slots=[camera.slot for camera in robot.cameras],
        state=len(robot.state_names),
        action=len(robot.action.names),
    )


def run(checkpoint, recipe, **changes):
    model = load_model(checkpoint)
    processor = load_processor(checkpoint, read_config(checkpoint))
    found = calibrate(
        model,
        processor,
        dataclasses.replace(load_recipe(recipe), **changes),
        observations(16),
        observations(3, seed=1),
        action_size=processor.action_size,
        device=torch.device('cpu'),
        dtypes={},
        seed=0,
    )
    return model, found


@pytest.mark.parametrize(('recipe', 'worst'), [('w8a8', 0.03), ('w4a8', 0.2), ('paper-w4a8', 0.3)])
def test_the_recipes_run_on_smolvla_and_their_artifacts_are_the_same_policy(
    checkpoint, tmp_path, recipe, worst
):
    model, found = run(checkpoint, recipe)
    assert 0 < found.corrected.relative < worst
    assert len(found.corrections.alpha) == len(model.head_layers()) == 4
    before, after = quantized_parts(memory(model))
    if recipe != 'paper-w4a8':  # whose rotations outweigh so small a network
        assert after < before
    out = tmp_path / 'policy'
    write(out, checkpoint, model, recipe)
    loaded, manifest = load_artifact(out)
    assert manifest.content['model']['type'] == 'smolvla'
    inputs = load_processor(out, read_config(out)).inputs(observations(1, seed=2)[0])
    noise = tiny_noise()
    assert torch.equal(act(loaded, inputs, noise), act(model, inputs, noise))


def test_a_smolvla_directory_is_a_policy(checkpoint):
    policy = load_policy(checkpoint, device='cpu')
    chunk = policy.infer(observations(1)[0], seed=1)
    assert chunk.shape == (6, len(contract().action.names)) and np.isfinite(chunk).all()


def test_both_sides_of_the_interface_are_balanced(checkpoint):
    # values of the prefix where the expert reads them, and its projections of them where it crosses
    recipe = load_recipe('w4a8')
    settings = dataclasses.replace(recipe.balance, interface=True, dead_band=0.0)
    model, found = run(checkpoint, 'w4a8', balance=settings)
    assert set(found.interface) == {point.projection for point in model.interface()}
    text, expert = 'vlm_with_expert.vlm.model.text_model.layers', 'vlm_with_expert.lm_expert.layers'
    assert {(point.projection, point.side) for point in model.interface()} == {
        *((f'{text}.{layer}.self_attn.v_proj', 'output') for layer in (0, 2)),
        *((f'{expert}.{layer}.self_attn.{p}_proj', 'input') for layer in (1, 3) for p in 'kv'),
    }


def test_smoothing_every_layer_leaves_the_actions_as_they_are():
    model, inputs, noise = tiny_network(), tiny_inputs(), tiny_noise()
    expected, largest = act(model, inputs, noise), {}

    def see(name, x):
        seen = x.abs().flatten(0, -2).amax(0)
        largest[name] = torch.maximum(seen, largest.get(name, seen))

    everything = LAYOUTS['full'].select(model)
    with watch(model, everything, see):
        act(model, inputs, noise)
    scales = equalize(model, largest, 0.5, everything)
    torch.testing.assert_close(act(model, inputs, noise), expected, rtol=0, atol=1e-4)
    expert = 'vlm_with_expert.lm_expert.layers'
    untouched = {  # of the head: mixed with the prefix's values, or reading the prefix itself
        *(f'{expert}.{layer}.self_attn.o_proj' for layer in (0, 2)),
        *(f'{expert}.{layer}.self_attn.{part}_proj' for layer in (1, 3) for part in 'kv'),
    }
    head = {name for name in everything if name.startswith(expert)}
    assert head - set(scales) == untouched
    assert all((scales[name].log().abs() > 0.01).any() for name in head - untouched)


def head_samples(model, count=3):
    samples = []
    for seed in range(count):
        inputs = tiny_inputs(seed, batch=2, padding=2)
        context = model.backbone(*model.embed(inputs))
        samples.append(HeadSample(context, context, inputs, tiny_noise(seed, batch=2)))
    return samples


def test_shrunken_heads_are_restored_in_both_kinds_of_attention():
    teacher = tiny_network()
    student = copy_head(teacher)
    alpha = [[0.8, 1.2, 1.0, 0.9], [1.1, 0.85, 1.2, 1.0], [0.9, 0.75, 1.1, 1.2], [1.2, 1.3, 0.8, 1]]
    beta, mlp = [0.8, 1.2, 0.9, 1.1], [1.15, 0.85, 0.75, 1.2]
    shrink(student, alpha, beta, mlp)
    found = match(student, teacher, head_samples(teacher), balance=balance(mlp=True))
    for values, factors in ((found.alpha, alpha), (found.beta, beta), (found.beta_mlp, mlp)):
        expected = 1 / torch.tensor(factors)
        torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-3, atol=0)
    for before, after in zip(found.before, found.after, strict=True):
        assert min(before.attention, before.mlp) > 0.03
        assert max(*after.logits, after.attention, after.mlp) < 1e-3


def test_a_shrunken_prefix_is_restored_where_cross_layers_read_it():
    teacher = tiny_network()
    student = copy_head(teacher)
    samples = head_samples(teacher)
    shrunk = [
        dataclasses.replace(
            sample,
            student_context=dataclasses.replace(
                sample.student_context,
                keys=tuple(0.8 * key for key in sample.student_context.keys),
                values=tuple(0.8 * value for value in sample.student_context.values),
            ),
        )
        for sample in samples
    ]
    found = match(
        student,
        teacher,
        shrunk,
        temperature=temperature(False),
        balance=balance(interface=True),
        estimation=estimation('parallel'),
    )
    paths = [point.projection for point in student.interface() if point.side == 'input']
    assert found.interface == pytest.approx(dict.fromkeys(paths, 1.25), rel=1e-4)


def test_cross_layers_project_the_prefix_once_in_the_first_step():
    # scales by step are looked up there, in every inference after the first as well
    model, calls = tiny_network(), []
    for index, layer in enumerate(model.expert.layers):
        layer.self_attn.k_proj.register_forward_hook(
            lambda *_, index=index: calls.append((index, model.denoising_step.index))
        )
    for _ in range(2):
        calls.clear()
        act(model, tiny_inputs(), tiny_noise())
    once = [(1, 0), (3, 0)]
    every = [(index, step) for step in range(model.denoising_steps) for index in (0, 2)]
    assert calls == once + every
