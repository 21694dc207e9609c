# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`tune`: what it would measure, how it searches, what it keeps; and that it needs a GPU."""
from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_samples import inputs, network

from quantvla_ros.cli import tune
from quantvla_ros.cli.main import main
from quantvla_ros.engine.attentions import attentions
from quantvla_ros.engine.pi05 import PI05Forward, PI05Weights
from quantvla_ros.engine.products import PRECISIONS, Workload, products
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused, gpu, tile_trial
from quantvla_ros.kernels.attention_tiles import Attention, AttentionTile
from quantvla_ros.kernels.fused_types import Quantized
from quantvla_ros.kernels.gemm_tiles import FEW_ROWS, GemmTile, Product
from quantvla_ros.kernels.tile_search import promising, search
from quantvla_ros.kernels.tile_table import Gpu, read_table, table_path
from quantvla_ros.models.pi05 import PI05Config
from quantvla_ros.models.siglip import VisionConfig

GPU = Gpu('NVIDIA Test', (9, 0), 132, 227 * 1024)
SLOW, FAST, BAD = (GemmTile(16, 64, 128, 4, stages) for stages in (2, 3, 4))


class Trial:
    """Times as told; the first look is taken from `quick`, the others from `slow` in their turn."""

    def __init__(self, quick, slow=(), refused=()):
        self.quick, self.refused = quick, refused
        self.slow = {tile: list(times) for tile, times in dict(slow).items()}

    def refusal(self, tile):
        return 'wrong by up to 3' if tile in self.refused else None

    def microseconds(self, tile, *, quick):
        return self.quick[tile] if quick or tile not in self.slow else self.slow[tile].pop(0)


def test_the_fastest_tile_is_found():
    found = search([SLOW, FAST], Trial({SLOW: 10.0, FAST: 5.0}))
    assert (found.tile, found.microseconds, found.tried) == (FAST, 5.0, 2)


def test_one_disturbed_round_does_not_decide():
    slow = {FAST: [5.0, 50.0, 5.0, 5.0, 5.0], SLOW: [6.0] * 5}
    assert search([SLOW, FAST], Trial({SLOW: 5.0, FAST: 5.1}, slow)).tile == FAST


def test_a_tile_that_is_wrong_is_never_taken():
    found = search([BAD, SLOW], Trial({BAD: 1.0, SLOW: 9.0}, refused=[BAD]))
    assert found.tile == SLOW
    assert found.refused == ((BAD, 'wrong by up to 3'),)


def test_without_a_tile_that_runs_nothing_is_found():
    assert search([BAD], Trial({}, refused=[BAD])).tile is None


def test_columns_are_split_only_where_the_tiles_do_not_fill_the_gpu():
    tiles = [GemmTile(128, 128, 128, 8, 3, split=split) for split in (1, 2, 4)]
    few, many = Product('int8', 128, 4096, 16384), Product('int8', 816, 32768, 2048)
    assert list(promising(tiles, few, processors=16)) == [tiles[0]]
    assert list(promising(tiles, few, processors=32)) == tiles[:2]
    assert list(promising(tiles, few, processors=132)) == tiles
    assert list(promising(tiles, many, processors=132)) == tiles[:1]


def test_the_products_of_pi05_are_those_of_its_published_sizes():
    found = {one.name: one for one in products(PI05Config(), Workload(views=3, tokens=48))}
    assert found['backbone gate+up'].of('w8a8') == Product('int8', 816, 32768, 2048, True)
    assert found['backbone down'].of('bf16') == Product('bfloat16', 816, 2048, 16384)
    packed = Product('int4', 50, 1024, 4096, group=128, joined=True)
    assert found['expert down'].of('w4a8') == packed
    # Attention projections of the head are never integers; many packed rows are int8 on Hopper.
    assert found['expert o'].of('w4a8') == Product('bfloat16', 50, 1024, 2048, joined=True)
    assert found['backbone down'].of('w4a8', (9, 0)) == Product('int8', 816, 2048, 16384)
    assert found['backbone down'].of('w4a8', (8, 7)).kind == 'int4'
    assert found['vision q+k+v'].of('paper-w4a8') == Product('int4', 768, 3456, 1152)
    assert found['backbone q+k+v'].of('w8a8') == Product(
        'int8', 816, 2560, 2048, pairs=True, heads=True
    )
    assert found['expert down'].times == 180


@pytest.mark.parametrize('views', [1, 3])
def test_the_products_are_those_that_the_engine_runs(monkeypatch, views):
    model, seen = network('float'), Counter()

    def noting(function, kind):
        def call(x, weight, *arguments, **options):
            rows = (x.values if isinstance(x, Quantized) else x).shape[0]
            few = {name: rows <= FEW_ROWS for name in kind if name == 'joined'}
            found = {**kind, **few}
            seen[Product('bfloat16', rows, weight.outputs, weight.columns, **found)] += 1
            return function(x, weight, *arguments, **options)

        return call

    gated, heads = {'pairs': True}, {'pairs': True, 'heads': True}
    operations = {
        'linear': {}, 'linear_norm': {'joined': True}, 'gated_linear': gated,
        'attention_inputs': heads,
    }  # fmt: skip
    for name, kind in operations.items():
        monkeypatch.setattr(fused, name, noting(getattr(fused, name), kind))
    forward = PI05Forward(PI05Weights(model, torch.device('cpu'), torch.float32), views, 7)
    forward.set_inputs(*inputs(views, 7))
    forward.run()
    expected = Counter()
    for one in products(model.config, Workload(views, 7)):
        expected[one.product] += one.times
    # Of what is left out there is a patch embedding for all pictures, and actions in and out.
    patch, steps = 3 * model.config.vision.patch ** 2, model.config.steps
    assert not expected - seen
    assert sum((seen - expected).values()) == 1 + 2 * steps
    assert all(
        product.columns >= patch or model.config.action_dim in (product.columns, product.outputs)
        for product in seen - expected
    )


def test_a_network_without_an_engine_is_refused():
    for of in (products, attentions):
        with pytest.raises(BackendError, match=r'PI05, Groot, SmolVLA.*found Vision'):
            of(VisionConfig(), Workload(1, 1))


@pytest.mark.parametrize('wrong', [{'views': 0}, {'tokens': 10**6}, {'chunk': -1}])
def test_a_workload_out_of_range_is_refused(wrong):
    with pytest.raises(BackendError, match=next(iter(wrong))):
        Workload(**{'views': 1, 'tokens': 1, **wrong})


def test_the_list_names_every_product_once_and_needs_no_gpu(capsys):
    assert main(['tune', '--list', '--views', '3', '--chunk', '50', '--precision', 'w8a8']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14 + 3 + 1
    assert 'int8 816 x 2048 -> 32768 pairs' in lines[8]
    assert 'backbone gate+up' in lines[8]


@pytest.mark.parametrize('model', ['gr00t_n1_5', 'smolvla'])
def test_other_networks_are_known_by_their_names(capsys, model):
    assert main(['tune', '--list', '--model', model, '--views', '3', '--precision', 'w8a8']) == 0
    text = capsys.readouterr().out
    # Three pictures and the prompt's 48 tokens; SmolVLA's state is a token of the prefix.
    rows = {'gr00t_n1_5': 3 * 256 + 48, 'smolvla': 3 * 64 + 48 + 1}[model]
    assert f'int8 {rows} x ' in text and 'backbone gate+up' in text


def test_products_that_several_workloads_share_are_listed_once(capsys):
    main(['tune', '--list', '--views', '2,3', '--precision', 'w8a8'])
    text = capsys.readouterr().out
    assert text.count('expert down') == 1
    assert text.count('backbone down') == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert main(['tune']) == 2
    error = capsys.readouterr().err
    assert error.startswith('quantvla_ros tune: expected an NVIDIA GPU')
    assert error.count('\n') == 1


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--precision', 'fp8'], '--precision'),
        (['--views', 'two'], '--views'),
        (['--views', '0'], 'views'),
        (['--model', 'smolvla2'], 'config.json'),
        (['--model', '/nowhere'], 'config.json'),
        (['--device', 'cpu'], 'a CPU has no tiles'),
        (['--device', 'gpu7'], '--device'),
    ],
)
def test_a_wrong_call_is_one_line(capsys, arguments, said):
    assert main(['tune', *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count('\n') == 1


class Instant:
    """A trial of the product's own: the later a candidate, the slower; `wrong` ones are refused."""

    wrong: tuple[int, ...] = ()

    def __init__(self, product, device):
        self.seen: list[GemmTile] = []

    def refusal(self, tile):
        self.seen.append(tile)
        return 'wrong by up to 1' if len(self.seen) - 1 in self.wrong else None

    def microseconds(self, tile, *, quick):
        return 1.0 + self.seen.index(tile)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A machine with a GPU whose every trial is an `Instant`; runs `tune`, gives its table."""
    monkeypatch.setattr(tune, '_gpu', lambda name: ('cuda', GPU))
    for name in ('GpuTrial', 'AttentionTrial'):
        monkeypatch.setattr(tile_trial, name, Instant)
    monkeypatch.setattr(Instant, 'wrong', ())

    def run(*arguments):
        status = main(
            ['tune', '--out', str(tmp_path), '--views', '3', '--jobs', '1', *arguments]
        )
        path = table_path(tmp_path, GPU)
        return status, read_table(path)[1] if path.exists() else {}

    return run


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec('triton') is None, reason='triton is not installed'
)


@needs_triton
def test_every_product_gets_its_entry(measured):
    status, entries = measured('--precision', 'bf16,w8a8,w4a8')
    assert status == 0
    expected = {
        one.of(p, GPU.capability)
        for one in products(PI05Config(), Workload(3, 48)) for p in ('bf16', 'w8a8', 'w4a8')
    } | {one.attention for one in attentions(PI05Config(), Workload(3, 48))}  # fmt: skip
    assert set(entries) == expected


@needs_triton
def test_what_is_in_the_table_is_not_measured_again_unless_asked(measured, capsys):
    measured('--precision', 'w8a8')
    capsys.readouterr()
    status, entries = measured('--precision', 'w8a8,bf16')
    assert status == 0
    assert len(entries) == 14 + 12 + 3  # two products of the head are in both
    assert '17 products are in the table' in capsys.readouterr().out
    measured('--precision', 'w8a8', '--again')
    assert '17 of 17 products measured' in capsys.readouterr().out


@needs_triton
def test_a_wrong_tile_is_reported_and_the_next_one_kept(measured, capsys, monkeypatch):
    _, right = measured('--precision', 'w8a8', '--again')
    monkeypatch.setattr(Instant, 'wrong', (0,))
    status, entries = measured('--precision', 'w8a8', '--again')
    assert status == 1
    assert 'please report it' in capsys.readouterr().err
    assert all(entries[product].tile != right[product].tile for product in right)


@needs_triton
def test_attentions_are_reached_by_name_and_measured_once_for_all_precisions(measured):
    status, entries = measured('--precision', 'bf16,w8a8', '--only', 'attention')
    assert status == 0
    assert set(entries) == {one.attention for one in attentions(PI05Config(), Workload(3, 48))}
    assert all(isinstance(entry.tile, AttentionTile) for entry in entries.values())


def test_a_gpu_is_described_by_what_torch_says_of_it(monkeypatch):
    class Properties:
        name, major, minor, multi_processor_count = GPU.name, 9, 0, 132
        shared_memory_per_block_optin = 227 * 1024

    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: Properties)
    gpu.gpu_of.cache_clear()
    assert gpu.gpu_of(torch.device('cuda')) == GPU
    gpu.gpu_of.cache_clear()


PRODUCTS = [
    Product('int8', 5, 48, 96),
    Product('bfloat16', 5, 48, 96, pairs=True),
    Product('int4', 5, 96, 128, pairs=True, head=16, heads=True),
    Product('int8', 5, 96, 128, pairs=True, heads=True),
    replace(Product('int4', 5, 48, 128), group=64),
    Product('int8', 5, 48, 128, joined=True),
]


ATTENTIONS = [
    Attention('bfloat16', 20, 20, 2, 2, 72, segments=2),
    Attention('bfloat16', 21, 21, 4, 2, 64, causal=True),
    Attention('bfloat16', 5, 40, 4, 1, 16),
]


def try_products():
    """In a process of its own, where the kernels are interpreted."""
    for product in PRODUCTS:
        trial = tile_trial.GpuTrial(product, torch.device('cpu'))
        tile = GemmTile(16, 16, 64, 4, 2)
        assert trial.refusal(tile) is None, (product, trial.refusal(tile))
        trial._expected = [expected + 1 for expected in trial._expected]
        assert 'wrong by' in trial.refusal(tile)
    for shape in ATTENTIONS:
        trial = tile_trial.trial_of(shape, torch.device('cpu'))
        for splits in (1, 2):
            tile = AttentionTile(16, 16, splits, 4, 2, after=splits > 1)
            assert trial.refusal(tile) is None, (shape, trial.refusal(tile))
        trial._expected = trial._expected + 1
        assert 'wrong by' in trial.refusal(tile)


@needs_triton
def test_a_trial_runs_each_kind_of_product_and_sees_a_wrong_result():
    result = subprocess.run(
        [sys.executable, __file__],
        env={
            **os.environ, 'TRITON_INTERPRET': '1',
            'PYTHONPATH': str(Path(__file__).resolve().parents[1]),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


def test_precisions_are_kinds_that_products_have():
    for kind, group in PRECISIONS.values():
        replace(PRODUCTS[0], kind=kind, group=group)


if __name__ == '__main__':
    try_products()
