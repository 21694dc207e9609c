# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The attentions whose tiles `tune` looks for are those that the engines run."""
from collections import Counter

import engine_groot_samples
import engine_samples
import engine_smolvla_samples
import pytest
import torch

from quantvla_ros.engine.attentions import attentions
from quantvla_ros.engine.groot import GrootForward
from quantvla_ros.engine.groot_weights import GrootWeights
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.engine.products import Workload
from quantvla_ros.engine.smolvla import SmolVLAForward, SmolVLAWeights
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.attention_tiles import Attention
from quantvla_ros.models.groot_n15 import GrootConfig
from quantvla_ros.models.pi05 import PI05Config
from quantvla_ros.models.smolvla import SmolVLAConfig

ENGINES = {
    'pi05': (engine_samples, PI05Weights, PI05Forward),
    'groot': (engine_groot_samples, GrootWeights, GrootForward),
    'smolvla': (engine_smolvla_samples, SmolVLAWeights, SmolVLAForward),
}


@pytest.mark.parametrize('views', [1, 2])
@pytest.mark.parametrize('name', ENGINES)
def test_the_attentions_are_those_that_the_engine_runs(monkeypatch, name, views):
    samples, weights, make = ENGINES[name]
    model, seen, attention = samples.network('float'), Counter(), fused.attention

    def noting(queries, keys, values, *, segment=None, causal=False, **options):
        rows, heads, size = queries.shape
        total, kv_heads = keys.shape[:2]
        parts = 1 if segment is None else rows // segment
        sizes = (rows // parts, total // parts, heads, kv_heads, size, parts, causal)
        seen[Attention('bfloat16', *sizes)] += 1
        return attention(queries, keys, values, segment=segment, causal=causal, **options)

    monkeypatch.setattr(fused, 'attention', noting)
    robot = (engine_groot_samples.ROBOT,) if name == 'groot' else ()
    forward = make(weights(model, torch.device('cpu'), torch.float32, *robot), views, 7)
    forward.set_inputs(*samples.inputs(views, 7))
    forward.run()
    expected = Counter()
    for one in attentions(model.config, Workload(views, 7)):
        expected[one.attention] += one.times
    assert seen == expected


def test_those_of_the_published_sizes_are_known():
    work = Workload(views=3, tokens=48)
    found = {one.name: one.attention for one in attentions(PI05Config(), work)}
    assert found == {
        'attention vision': Attention('bfloat16', 256, 256, 16, 16, 72, segments=3),
        'attention backbone': Attention('bfloat16', 816, 816, 8, 1, 256),
        'attention expert': Attention('bfloat16', 50, 866, 8, 1, 256),
    }
    found = {one.name: one.attention for one in attentions(GrootConfig(), Workload(2, 40))}
    assert found['attention backbone'] == Attention(
        'bfloat16', 552, 552, 16, 8, 128, causal=True
    )
    assert found['attention head to the features'].keys == 552
    found = {one.name: one.attention for one in attentions(SmolVLAConfig(), work)}
    assert found['attention vision'] == Attention('bfloat16', 1024, 1024, 12, 12, 64, segments=3)
    assert found['attention expert to all'].keys == 1 + 3 * 64 + 48 + 50
