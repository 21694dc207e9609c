# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A small pi0.5 with an action head of any depth, and samples for matching a student to it."""
import torch

from quantvla_ros.models.gemma import GemmaConfig
from quantvla_ros.models.pi05 import PI05, PI05Config
from quantvla_ros.models.prefix import Prefix
from quantvla_ros.models.siglip import VisionConfig
from quantvla_ros.quantization.matching import HeadSample, copy_head, match_head
from quantvla_ros.quantization.recipe import Balance, Estimation, Temperature

HEADS, KV_HEADS, HEAD_DIM, WIDTH = 4, 1, 16, 32
CHUNK, ACTION, STEPS, PREFIX = 4, 8, 3, 7


def policy(depth: int, seed: int = 0) -> PI05:
    """Random weights; only its head matters here."""
    torch.manual_seed(seed)
    sizes = {'depth': depth, 'heads': HEADS, 'kv_heads': KV_HEADS, 'head_dim': HEAD_DIM}
    model = PI05(
        PI05Config(
            vision=VisionConfig(width=16, depth=1, heads=2, mlp=24, image=28, patch=14),
            prefix=GemmaConfig(width=24, mlp=32, **sizes),
            expert=GemmaConfig(width=WIDTH, mlp=48, **sizes),
            vocabulary=50,
            action_dim=ACTION,
            chunk=CHUNK,
            steps=STEPS,
        )
    )
    for layer in model.head_layers():  # logits with a spread of about 1, as in trained policies
        layer.attention.query_projection.weight.data *= 4.0
    return model.eval().requires_grad_(False)


def context(depth: int, seed: int, batch: int = 1) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, KV_HEADS, PREFIX, HEAD_DIM)
    valid = torch.ones(batch, PREFIX, dtype=torch.bool)
    valid[:, -2:] = False
    return Prefix(
        keys=tuple(torch.randn(shape, generator=generator) for _ in range(depth)),
        values=tuple(torch.randn(shape, generator=generator) for _ in range(depth)),
        valid=valid,
    )


def head_samples(depth: int, count: int = 3, batch: int = 1) -> list[HeadSample]:
    """The same context for both heads."""
    found = []
    for seed in range(count):
        prefix = context(depth, seed, batch)
        generator = torch.Generator().manual_seed(1000 + seed)
        noise = torch.randn(batch, CHUNK, ACTION, generator=generator)
        found.append(HeadSample(prefix, prefix, None, noise))
    return found


def temperature(enabled=True, method='least_squares', log_clip=1.0, dead_band=0.0, shrinkage=1.0):
    return Temperature(enabled, method, log_clip, dead_band, shrinkage)


def balance(
    enabled=True,
    method='least_squares',
    log_clip=1.0,
    dead_band=0.0,
    shrinkage=1.0,
    mlp=False,
    interface=False,
):
    return Balance(enabled, method, log_clip, dead_band, shrinkage, mlp, interface)


def estimation(order='sequential', sweeps=1, trajectory='float'):
    return Estimation(order, sweeps, trajectory)


def match(student, teacher, samples, **settings):
    """`match_head` on the CPU, with exact settings where none are given."""
    settings = {
        'temperature': temperature(),
        'balance': balance(),
        'estimation': estimation(),
        'device': 'cpu',
        **settings,
    }
    return match_head(student, teacher, samples, **settings)


def pair(depth: int, seed: int = 0):
    """A student, and the teacher that it is a copy of."""
    teacher = policy(depth, seed)
    return copy_head(teacher), teacher


def shrink(student, alpha=None, beta=None, mlp=None):
    """Shrink a student's logits by head and its outputs, layer by layer; None leaves them."""
    for index, layer in enumerate(student.head_layers()):
        for values, linear in (
            (alpha, layer.attention.query_projection),
            (beta, layer.attention.output_projection),
            (mlp, layer.mlp.output_projection),
        ):
            if values is None:
                continue
            factor = torch.as_tensor(values[index]).reshape(-1, 1).float()
            linear.weight.data *= factor.repeat_interleave(len(linear.weight) // len(factor), 0)


def attention_of(student, teacher, samples):
    """Logits of teacher and student along the float trajectory: a list of pairs, valid keys."""
    found = []
    for sample in samples:
        seen = []
        flows = [
            model.flow(which, sample.inputs)
            for model, which in (
                (teacher, sample.teacher_context),
                (student, sample.student_context),
            )
        ]
        x = sample.noise
        for step in range(flows[0].steps):
            for model, flow in zip((teacher, student), flows, strict=True):
                row = []
                for layer in model.head_layers():
                    layer.attention.probe = lambda lo, v, o, row=row: row.append((lo, v, o))
                velocity = flow.velocity(step, x)
                for layer in model.head_layers():
                    layer.attention.probe = None
                seen.append((row, velocity))
            x = flows[0].advance(x, seen[-2][1])
        for (t, _), (s, _) in zip(seen[::2], seen[1::2], strict=True):
            found += list(zip(t, s, strict=True))
    return found


def mean_abs_error(student, teacher, samples) -> float:
    """Of the logits over valid keys, rows less their mean."""
    errors = []
    for (t, valid, _), (s, _, _) in attention_of(student, teacher, samples):
        keys = valid[0, 0, 0]
        t, s = t[..., keys], s[..., keys]
        difference = (t - t.mean(-1, keepdim=True)) - (s - s.mean(-1, keepdim=True))
        errors.append(difference.abs().mean())
    return float(torch.stack(errors).mean())
