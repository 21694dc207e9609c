# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Matching a quantized action head to the float one: estimation, order, folding, evidence."""
import math

import pytest
import torch
from groot_samples import tiny_inputs, tiny_network, tiny_noise
from matching_samples import (
    STEPS,
    balance,
    estimation,
    head_samples,
    match,
    mean_abs_error,
    pair,
    policy,
    shrink,
    temperature,
)

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.matching import HeadSample, copy_head

OFF = {'temperature': temperature(False), 'balance': balance(False)}


def spread_student(depth, seed=0):
    """A student whose heads, outputs and MLPs are off by up to 25 %, each in its own way."""
    student, teacher = pair(depth, seed)
    generator = torch.Generator().manual_seed(5)
    alpha = 0.8 + 0.45 * torch.rand(depth, 4, generator=generator)
    beta = 0.8 + 0.45 * torch.rand(depth, generator=generator)
    mlp = 0.8 + 0.45 * torch.rand(depth, generator=generator)
    shrink(student, alpha, beta, mlp)
    return student, teacher, alpha, beta, mlp


@pytest.mark.parametrize('methods', [('std_ratio', 'rms_ratio'), ('least_squares',) * 2])
def test_layer_by_layer_every_scalar_is_restored_exactly(methods):
    # each is measured with all before it corrected, so nothing else is left to differ
    student, teacher, alpha, beta, mlp = spread_student(3)
    found = match(
        student,
        teacher,
        head_samples(3),
        temperature=temperature(method=methods[0]),
        balance=balance(method=methods[1], mlp=True),
    )
    torch.testing.assert_close(torch.tensor(found.alpha), 1 / alpha, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor(found.beta), 1 / beta, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor(found.beta_mlp), 1 / mlp, rtol=1e-4, atol=0)
    assert found.notes == ()
    for before, after in zip(found.before, found.after, strict=True):
        assert min(*before.logits, before.attention, before.mlp) > 0.03
        assert max(*after.logits, after.attention, after.mlp) < 1e-4


def test_what_is_folded_is_in_the_policy_and_nothing_runs_beside_it():
    # a run-time multiply would change the operator schedule
    student, teacher, *_ = spread_student(2)
    modules = list(student.modules())
    sample = head_samples(2)[0]

    def run(model):
        return model.flow(sample.student_context, None).velocity(0, sample.noise)

    assert (run(student) - run(teacher)).norm() > 0.01 * run(teacher).norm()
    match(student, teacher, head_samples(2), balance=balance(mlp=True))
    torch.testing.assert_close(run(student), run(teacher), rtol=1e-4, atol=1e-5)
    assert [id(m) for m in student.modules()] == [id(m) for m in modules]
    for model in (student, teacher):
        assert all(layer.attention.probe is None for layer in model.head_layers())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_teacher_is_left_as_it_is():
    student, teacher, *_ = spread_student(2)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    match(student, teacher, head_samples(2), balance=balance(mlp=True))
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())


@pytest.mark.parametrize(
    'only',
    [{'balance': balance(False)}, {'temperature': temperature(False)}],
    ids=['temperature', 'balance'],
)
@pytest.mark.parametrize('trajectory', ['own', 'float'])
def test_for_one_layer_and_one_correction_both_orders_are_the_same(only, trajectory):
    found = []
    for order in ('parallel', 'sequential'):
        student, teacher, *_ = spread_student(1)
        found.append(
            match(
                student,
                teacher,
                head_samples(1),
                estimation=estimation(order, trajectory=trajectory),
                **only,
            )
        )
    assert torch.allclose(torch.tensor(found[0].alpha), torch.tensor(found[1].alpha), atol=1e-6)
    assert torch.allclose(torch.tensor(found[0].beta), torch.tensor(found[1].beta), atol=1e-6)
    assert found[0].alpha[0] != (1.0,) * 4 or found[0].beta[0] != 1.0


@pytest.mark.parametrize('trajectory', ['own', 'float'])
def test_in_a_chain_of_shrunken_layers_layer_by_layer_is_better_and_sweeps_come_closer(trajectory):
    errors = {}
    for name, order, sweeps in (
        ('parallel', 'parallel', 1),
        ('swept', 'parallel', 4),
        ('sequential', 'sequential', 1),
    ):
        student, teacher, *_ = spread_student(4)
        found = match(
            student,
            teacher,
            head_samples(4),
            balance=balance(mlp=True),
            estimation=estimation(order, sweeps, trajectory),
        )
        errors[name] = sum(layer.attention for layer in found.after)
    assert errors['sequential'] < 0.5 * errors['parallel']
    assert errors['swept'] < 0.5 * errors['parallel']


def test_least_squares_beats_the_std_ratio_where_the_student_differs_by_noise():
    # the ratio amplifies noise to have the teacher's spread
    samples, errors = head_samples(1), {}
    for method in ('std_ratio', 'least_squares'):
        student, teacher = pair(1)
        weight = student.head_layers()[0].attention.query_projection.weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
        weight.data = 0.7 * weight + 0.6 * weight.std() * noise
        before = mean_abs_error(student, teacher, samples)
        found = match(
            student,
            teacher,
            samples,
            temperature=temperature(method=method),
            balance=balance(False),
        )
        errors[method] = mean_abs_error(student, teacher, samples)
        assert found.before[0].logits != found.after[0].logits
    assert errors['least_squares'] < 0.98 * errors['std_ratio']
    assert errors['least_squares'] < before


def test_the_reported_errors_are_those_of_logits_and_outputs():
    student, teacher = pair(1)
    shrink(student, alpha=[[0.5, 1.0, 0.8, 1.25]], mlp=[0.75])
    found = match(student, teacher, head_samples(1), **OFF)
    assert found.before == found.after
    assert found.before[0].logits == pytest.approx((0.5, 0.0, 0.2, 0.25), abs=1e-4)
    # the MLP reads what the attention has changed, so that its own 25 % are not all of it
    assert found.before[0].mlp == pytest.approx(0.25, abs=0.1)
    assert found.alpha == ((1.0,) * 4,) and found.beta == (1.0,) and found.beta_mlp is None


@pytest.mark.parametrize('trajectory', ['own', 'float'])
@pytest.mark.parametrize('order', ['parallel', 'sequential'])
def test_both_run_from_the_same_noise_and_the_trajectory_is_as_asked(trajectory, order):
    student, teacher, *_ = spread_student(2)
    places = {}

    def spy(model, who):
        original = model.flow

        def flow(context, inputs):
            made = original(context, inputs)
            velocity = made.velocity

            def spied(step, x):
                places.setdefault((who, step), []).append(x.clone())
                return velocity(step, x)

            made.velocity = spied
            return made

        object.__setattr__(model, 'flow', flow)

    spy(student, 'student')
    spy(teacher, 'teacher')
    match(
        student, teacher, head_samples(2, count=2), estimation=estimation(order, 1, trajectory)
    )
    for step in range(STEPS):
        t, s = places['teacher', step], places['student', step]
        assert len(t) == len(s) and len(t) >= 4
        same = [torch.equal(a, b) for a, b in zip(t, s, strict=True)]
        assert all(same) if step == 0 or trajectory == 'float' else not any(same)


def test_a_pass_ends_at_the_layer_in_question():
    # a head of 18 layers would cost twice the time otherwise
    student, teacher, *_ = spread_student(3)
    runs = [0, 0, 0]
    for index, layer in enumerate(student.head_layers()):
        layer.attention.query_projection.register_forward_hook(
            lambda *_, index=index: runs.__setitem__(index, runs[index] + 1)
        )
    done = []
    match(
        student,
        teacher,
        head_samples(3, count=2),
        balance=balance(mlp=True),
        progress=lambda *state: done.append(state),
    )
    whole, partial = 2, 3  # passes: before and after; alpha, beta and MLP of each layer
    expected = [whole + partial * (3 - index) for index in range(3)]
    assert [count / (2 * STEPS) for count in runs] == expected
    assert [d for d, _ in done] == sorted(d for d, _ in done)
    assert done[-1][0] == done[-1][1] == 2 * sum(expected)


def test_a_dead_band_spares_the_pass_that_would_follow():
    student, teacher, *_ = spread_student(2)
    runs = [0]
    student.head_layers()[0].attention.query_projection.register_forward_hook(
        lambda *_: runs.__setitem__(0, runs[0] + 1)
    )
    match(student, teacher, head_samples(2), temperature=temperature(dead_band=2.0))
    # before, after, and one for each layer: its logits have not moved since they were measured
    assert runs[0] == 4 * 3 * STEPS


def test_the_clip_bounds_all_sweeps_together():
    student, teacher = pair(2)
    shrink(student, alpha=[[0.25] * 4] * 2, beta=[0.25] * 2, mlp=[0.25] * 2)
    found = match(
        student,
        teacher,
        head_samples(2),
        temperature=temperature(log_clip=0.3),
        balance=balance(log_clip=0.2, mlp=True),
        estimation=estimation('parallel', sweeps=3),
    )
    assert found.alpha == ((pytest.approx(math.exp(0.3)),) * 4,) * 2
    assert found.beta == found.beta_mlp == (pytest.approx(math.exp(0.2)),) * 2
    layer = student.head_layers()[0]
    expected = 0.25 * math.exp(0.2) * teacher.head_layers()[0].mlp.output_projection.weight
    torch.testing.assert_close(layer.mlp.output_projection.weight, expected)


def test_sweeps_add_up_for_mlps_too():
    student, teacher = pair(1)
    shrink(student, mlp=[0.8])
    found = match(
        student,
        teacher,
        head_samples(1),
        temperature=temperature(False),
        balance=balance(mlp=True, shrinkage=0.5),
        estimation=estimation('parallel', sweeps=2),
    )
    assert math.log(found.beta_mlp[0]) / math.log(1.25) == pytest.approx(0.75, abs=1e-3)


def test_shrinkage_goes_part_of_the_way_and_sweeps_go_on():
    shares = []
    for sweeps in (1, 2):
        student, teacher = pair(1)
        shrink(student, alpha=[[0.8] * 4])
        found = match(
            student,
            teacher,
            head_samples(1),
            temperature=temperature(shrinkage=0.5),
            balance=balance(False),
            estimation=estimation('parallel', sweeps),
        )
        shares.append(math.log(found.alpha[0][0]) / math.log(1.25))
    assert shares == pytest.approx([0.5, 0.75], abs=1e-3)


def test_folded_weights_are_rounded_as_they_are_stored_and_only_once():
    names = [
        f'paligemma_with_expert.gemma_expert.model.layers.{layer}.self_attn.{part}_proj.weight'
        for layer in range(2)
        for part in 'qo'
    ]
    student, teacher, *_ = spread_student(2)
    originals = {name: student.get_parameter(name).clone() for name in names}
    found = match(
        student,
        teacher,
        head_samples(2),
        dtypes=dict.fromkeys(names, torch.bfloat16),
        estimation=estimation('parallel', sweeps=3),
    )
    for name in names:
        layer = int(name.split('.layers.')[1][0])
        rows = originals[name].shape[0]
        factor = torch.tensor(found.alpha[layer] if 'q_proj' in name else [found.beta[layer]])
        factor = factor.double().repeat_interleave(rows // len(factor))
        exact = originals[name].double() * factor[:, None]
        assert torch.equal(student.get_parameter(name), exact.bfloat16().float())


def test_batches_do_not_change_the_estimate():
    found = []
    singles = head_samples(2, count=1, batch=3)
    one = singles[0]
    rows = [
        type(one)(
            *(
                type(c)(
                    tuple(k[i : i + 1] for k in c.keys),
                    tuple(v[i : i + 1] for v in c.values),
                    c.valid[i : i + 1],
                )
                for c in (one.teacher_context, one.student_context)
            ),
            None,
            one.noise[i : i + 1],
        )
        for i in range(3)
    ]
    for samples in (singles, rows):
        student, teacher, *_ = spread_student(2)
        found.append(
            match(
                student,
                teacher,
                samples,
                temperature=temperature(method='std_ratio'),
                balance=balance(method='rms_ratio', mlp=True),
            )
        )
    torch.testing.assert_close(torch.tensor(found[0].alpha), torch.tensor(found[1].alpha))
    torch.testing.assert_close(torch.tensor(found[0].beta), torch.tensor(found[1].beta))
    torch.testing.assert_close(torch.tensor(found[0].beta_mlp), torch.tensor(found[1].beta_mlp))


def test_a_student_that_disagrees_in_sign_is_left_alone_with_a_note():
    student, teacher = pair(1)
    shrink(student, alpha=[[-1.0, 1.0, 0.8, 1.0]])
    found = match(student, teacher, head_samples(1), balance=balance(False))
    assert found.alpha[0] == pytest.approx((1.0, 1.0, 1.25, 1.0), abs=1e-4)
    assert found.alpha[0][0] == 1.0
    assert any('layer 0, head 0' in note and 'sign' in note for note in found.notes)


def test_a_policy_that_returns_nan_is_refused():
    student, teacher = pair(2)
    student.head_layers()[0].attention.query_projection.weight.data[0] = float('nan')
    with pytest.raises(CalibrationError, match='quantized policy'):
        match(student, teacher, head_samples(2))


def test_no_samples_and_unknown_settings_are_refused():
    student, teacher = pair(1)
    with pytest.raises(CalibrationError, match='expected samples'):
        match(student, teacher, [])
    with pytest.raises(CalibrationError, match='order: expected'):
        match(student, teacher, head_samples(1), estimation=estimation('random'))
    with pytest.raises(CalibrationError, match='expected method'):
        match(student, teacher, head_samples(1), temperature=temperature(method='guess'))


def test_a_norm_of_the_queries_is_refused_since_it_would_undo_alpha():
    student, teacher = pair(1)
    student.head_layers()[0].attention.q_norm = torch.nn.RMSNorm(16)
    with pytest.raises(CalibrationError, match='norm of its queries'):
        match(student, teacher, head_samples(1))
    match(student, teacher, head_samples(1), temperature=temperature(False))


def test_a_copy_of_the_head_shares_the_encoders_and_nothing_else():
    model = policy(2)
    copy = copy_head(model)
    (encoder,), (shared,) = model.encoders(), copy.encoders()
    assert encoder is shared
    own = {id(p) for p in model.parameters()} - {id(p) for p in encoder.parameters()}
    assert own and not own & {id(p) for p in copy.parameters()}
    copy.head_layers()[0].attention.query_projection.weight.data.zero_()
    assert model.head_layers()[0].attention.query_projection.weight.abs().sum() > 0


def groot_samples(model, count=2):
    """Random features as contexts, with left padding in none: the head has no mask."""
    found = []
    for seed in range(count):
        features = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(seed))
        noise = tiny_noise(seed, batch=2)
        found.append(HeadSample(features, features, tiny_inputs(seed, batch=2), noise))
    return found


def test_a_head_with_cross_and_self_attention_is_restored():
    teacher = tiny_network()
    student = copy_head(teacher)
    layers = student.head_layers()
    alpha = [[0.8, 1.2], [1.1, 0.85], [0.9, 0.75], [1.2, 1.3]][: len(layers)]
    beta, mlp = [0.8, 1.2, 0.9, 1.1], [1.15, 0.85, 0.75, 1.2]
    shrink(student, alpha, beta[: len(layers)], mlp[: len(layers)])
    for layer, a, b, m in zip(layers, alpha, beta, mlp, strict=False):  # they have biases
        layer.attention.query_projection.bias *= torch.tensor(a).repeat_interleave(12)
        layer.attention.output_projection.bias *= b
        layer.mlp.output_projection.bias *= m
    found = match(student, teacher, groot_samples(teacher), balance=balance(mlp=True))
    expected = 1 / torch.tensor(alpha)
    torch.testing.assert_close(torch.tensor(found.alpha), expected, rtol=1e-3, atol=0)
    expected = 1 / torch.tensor(beta[: len(layers)])
    torch.testing.assert_close(torch.tensor(found.beta), expected, rtol=1e-3, atol=0)
    for after in found.after:
        assert max(*after.logits, after.attention, after.mlp) < 1e-3


def test_features_that_have_shrunk_are_restored_where_the_head_reads_them():
    # GR00T prepares keys and values when a flow is made, before any denoising step
    teacher = tiny_network()
    student = copy_head(teacher)
    refine = student.action_head.refine
    student.action_head.refine = lambda features: 0.8 * refine(features)
    paths = [point.projection for point in student.interface()]
    biases = {path: student.get_submodule(path).bias.clone() for path in paths}
    found = match(
        student,
        teacher,
        groot_samples(teacher),
        temperature=temperature(dead_band=1e-3),
        balance=balance(interface=True, dead_band=1e-3),
        estimation=estimation('parallel'),
    )
    assert found.interface == pytest.approx(dict.fromkeys(paths, 1.25), rel=1e-4)
    # whatever is measured after it finds nothing left to do
    assert {value for row in found.alpha for value in row} == {1.0} == set(found.beta)
    assert all(torch.equal(student.get_submodule(p).bias, biases[p]) for p in paths)
    assert max(max(layer.logits) for layer in found.before) > 0.1
    for after in found.after:
        assert max(*after.logits, after.attention, after.mlp) < 1e-3


def test_an_interface_on_the_output_side_is_not_this_modules():
    # pi0.5's prefix values are scaled in the backbone, layer by layer, before the head is matched
    student, teacher = pair(1)
    found = match(student, teacher, head_samples(1), balance=balance(interface=True))
    assert found.interface == {}
