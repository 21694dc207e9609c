# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine's kernels compiled ahead of time for each GPU, without one.

The launchers run with tensors of a network's sizes, for a GPU of that kind; what they were about to
start is compiled with its arguments as they are. With QUANTVLA_AOT=all every case for every GPU.
"""
import importlib.util
import os
import re
from importlib.metadata import version

import pytest
import torch
from kernel_compilation import (
    BF16,
    EVERYTHING,
    FP16,
    INTEGER,
    SHARED,
    TF32,
    Recorder,
    chips,
    instructions,
    resources,
)

from quantvla_ros.kernels import triton_gemm_launch, triton_int8
from quantvla_ros.kernels.fused_types import FloatWeight, Int8Weight, Quantized
from quantvla_ros.kernels.gemm_tiles import EXCLUDED, GemmTile, Product, choose_gemm_tile, exclusion
from quantvla_ros.kernels.halves import HalvedWeight
from quantvla_ros.kernels.rows import Rows

if importlib.util.find_spec('triton') is None:
    pytest.skip('triton is not installed', allow_module_level=True)
if os.environ.get('TRITON_INTERPRET'):
    pytest.skip('kernels are interpreted here', allow_module_level=True)

# Multiprocessors: AGX Orin, RTX 4090, H100 SXM, AGX Thor, RTX 5090.
PROCESSORS = {87: 16, 89: 128, 90: 132, 110: 20, 120: 170}
INSTRUCTION = {'int8': INTEGER, 'int4': INTEGER, 'bfloat16': BF16, 'float16': FP16}


def empty(*shape, dtype=torch.bfloat16):
    """A tensor that nobody reads: it takes addresses, not memory."""
    return torch.empty(shape, dtype=dtype)


def vector(size):
    return empty(size, dtype=torch.float32)


@pytest.fixture
def on(monkeypatch):
    """Makes the launchers choose for a GPU; gives the launches of what is called then."""
    from quantvla_ros.kernels import (
        triton_attention,
        triton_gemm,
        triton_gemm_reduce,
        triton_norms,
    )

    def choose(capability):
        numbers = (PROCESSORS[capability], SHARED[capability])
        for module in (triton_int8, triton_attention):
            monkeypatch.setattr(module, '_gpu', lambda device: numbers)
        limits = {'shared': numbers[1], 'capability': divmod(capability, 10)}
        monkeypatch.setattr(triton_gemm_launch, '_limits', lambda device: limits)
        triton_gemm_launch._chosen.cache_clear()
        triton_attention._tile_on.cache_clear()
        recorders = [
            (triton_gemm, 'gemm_kernel', {'PTX': True, 'WIDEN': False}),
            (triton_gemm_reduce, 'reduce_kernel', {}),
            (triton_norms, 'norm_kernel', {'PTX': True}),
            (triton_norms, 'norm_blocks_kernel', {}),
            (triton_attention, 'attention_kernel', {'UPCAST': False}),
            (triton_attention, 'join_kernel', {}),
        ]
        made = []
        for module, name, as_on_gpu in recorders:
            made.append(Recorder(getattr(module, name), **as_on_gpu))
            monkeypatch.setattr(module, name, made[-1])

        def launches():
            return [launch for recorder in made for launch in recorder.launches]

        return launches

    yield choose
    triton_gemm_launch._chosen.cache_clear()
    triton_attention._tile_on.cache_clear()


# Bytes of a thread's memory: a register or two dozen that are put aside. Excluded tiles need more.
FEW = 128


def check(launch, capability, instruction=None):
    """Compile a launch; its needs are met by the GPU. Gives its code."""
    compiled = launch.compiled_for(capability)
    what = f'{launch.kernel.__name__} on sm_{capability}: {launch.options}'
    assert compiled.metadata.shared <= SHARED[capability], what
    registers, spilled = resources(compiled)
    assert registers <= 255, what
    assert spilled <= FEW, f'{what}: {spilled} bytes of what a thread holds are in memory'
    if instruction is not None:
        assert re.search(instruction, compiled.asm['ptx']), what
    return compiled


def operands(kind, rows, columns, outputs, *, bias=False):
    """An input and a weight of a kind: a float type, int8, int4, or int4 and its group."""
    name, _, group = kind.partition(' ')
    group = int(group or 0)
    b = empty(outputs) if bias else None
    if name.startswith(('float', 'bfloat')):
        dtype = getattr(torch, name)
        return empty(rows, columns, dtype=dtype), FloatWeight(
            empty(outputs, columns, dtype=dtype), b
        )
    x = Quantized(empty(rows, columns, dtype=torch.int8), vector(rows), torch.bfloat16)
    scale = vector(outputs)
    if name == 'int8':
        return x, Int8Weight(empty(outputs, columns, dtype=torch.int8), scale, b, Rows())
    halves = empty(outputs, -(-columns // 64) * 32, dtype=torch.uint8)
    groups = empty(outputs, -(-columns // group), dtype=torch.uint8) if group else None
    return x, HalvedWeight(halves, columns, groups, group, scale, b, Rows())


def residual(kind, rows, columns, outputs):
    x, weight = operands(kind, rows, columns, outputs)
    added = empty(rows, outputs)
    triton_gemm_launch.linear(x, weight, residual=added, gate=vector(outputs), out=added)


def gelu(kind, rows, columns, outputs):
    x, weight = operands(kind, rows, columns, outputs, bias=True)
    triton_gemm_launch.linear(x, weight, activation='gelu_tanh')


def wide(kind, rows, columns, outputs):
    """The product that fused turns and puts together, in float32."""
    x, weight = operands(kind, rows, columns, outputs)
    triton_gemm_launch.linear(x, weight, out=empty(rows, outputs, dtype=torch.float32))


def gated(kind, rows, columns, outputs):
    triton_gemm_launch.gated_linear(*operands(kind, rows, columns, outputs), activation='silu')


def heads(kind, rows, columns, outputs, *, size=256, kv=1, turned=True, norm=None):
    x, weight = operands(kind, rows, columns, outputs, bias=not turned)
    rotary = (empty(rows, size // 2, dtype=torch.float32),) * 2 if turned else None
    cache = empty(rows + 8, kv, size)
    triton_gemm_launch.attention_inputs(
        x, weight, rotary, outputs // size - 2 * kv, kv, size, cache, cache, 8,
        q_norm=norm, k_norm=norm,
    )  # fmt: skip


def normed_heads(kind, rows, columns, outputs):
    heads(kind, rows, columns, outputs, size=128, kv=8, norm=empty(128))


def vision_heads(kind, rows, columns, outputs):
    heads(kind, rows, columns, outputs, size=72, kv=16, turned=False)


@pytest.mark.parametrize(
    ('capability', 'operation', 'kind', 'rows', 'columns', 'outputs'),
    [
        *((chip, residual, 'int8', 50, 4096, 1024) for chip in chips(87, 90, 110)),
        *((chip, gated, 'int4 128', 50, 1024, 8192) for chip in chips(87, 89, 90, 110, 120)),
        *((chip, gated, 'int8', 816, 2048, 32768) for chip in chips(87, 90, 120)),
        *((chip, heads, 'int8', 816, 2048, 2560) for chip in chips(90)),
        *((chip, heads, 'bfloat16', 50, 1024, 2560) for chip in chips(90, 110)),
        *((chip, normed_heads, 'int4 128', 552, 2048, 4096) for chip in chips(87)),
        *((chip, vision_heads, 'int8', 768, 1152, 3456) for chip in chips(90)),
        *((chip, gelu, 'bfloat16', 768, 1152, 4304) for chip in chips(87, 90)),
        *((chip, gelu, 'int4 128', 768, 1152, 4304) for chip in chips(87)),
        *((chip, residual, 'int4', 816, 16384, 2048) for chip in chips(89)),
        *((chip, wide, 'int4', 816, 2048, 2048) for chip in chips(120)),
        *((chip, residual, 'int8', 10, 4096, 1024) for chip in chips(90)),
        *((chip, residual, 'float16', 816, 2048, 2048) for chip in chips(89)),
        *((chip, wide, 'int4', 50, 1024, 4096) for chip in chips(110)),
        *((chip, wide, 'float32', 50, 32, 1024) for chip in chips(90)),
    ],
)
def test_a_product_of_a_network_compiles_to_matrix_instructions(
    on, capability, operation, kind, rows, columns, outputs
):
    launches = on(capability)
    operation(kind, rows, columns, outputs)
    (product,) = (one for one in launches() if one.kernel.__name__ == 'gemm_kernel')
    # float32 actions are exact in float32: they go without matrix instructions, being few.
    compiled = check(product, capability, INSTRUCTION.get(kind.partition(' ')[0]))
    if kind.startswith('int4'):
        # Unpacked weights in the shared memory would cost what packing saves.
        assert 'local_alloc %' not in compiled.asm['ttgir']


@pytest.mark.parametrize(
    ('operation', 'kind', 'outputs', 'left'),
    [
        (residual, 'int8', 2048, True),
        (gelu, 'bfloat16', 4304, False),
        (gated, 'int8', 32768, False),
        (heads, 'bfloat16', 2560, False),
    ],
)
def test_the_memory_accelerator_feeds_the_matrix_units(
    on, monkeypatch, operation, kind, outputs, left
):
    """Both operands stay where they were brought: neither goes through the registers."""
    tile = GemmTile(128, 256, 128 if kind == 'int8' else 64, 8, 4, left=left, bulk=True)
    monkeypatch.setattr(triton_gemm_launch, '_tile', lambda *arguments: tile)
    launches = on(90)
    operation(kind, 816, 2048, outputs)
    (product,) = launches()
    compiled = check(product, 90, INSTRUCTION[kind])
    assert 'cp.async.bulk.tensor' in compiled.asm['ptx']
    loop = compiled.asm['ttgir'].partition('scf.for')[2].partition('scf.yield')[0]
    assert 'local_load' not in loop
    assert compiled.metadata.shared <= tile.shared(kind) + 1024


@pytest.mark.parametrize(
    ('operation', 'kind', 'outputs'),
    [(gated, 'int8', 32768), (gated, 'bfloat16', 32768), (heads, 'int8', 2560)],
)
def test_a_half_tail_costs_the_other_tiles_nothing(on, monkeypatch, operation, kind, outputs):
    """Both kinds of programs share their memory, fit the registers, and wait for no load."""
    tile = GemmTile(128, 256, 128 if kind == 'int8' else 64, 8, 4, bulk=True)
    monkeypatch.setattr(triton_gemm_launch, '_tile', lambda *arguments: tile)
    launches = on(90)
    operation(kind, 816, 2048, outputs)
    operation(kind, 768, 2048, outputs)
    tailed, whole = (check(one, 90, INSTRUCTION[kind]) for one in launches())
    assert tailed.metadata.shared == whole.metadata.shared
    loops = tailed.asm['ttgir'].split('scf.for')[1:]
    assert len(loops) == 2 and whole.asm['ttgir'].count('scf.for') == 1
    for loop in loops:
        loop = loop.partition('scf.yield')[0]
        assert 'local_load' not in loop and 'async_tma_copy' in loop
    assert resources(tailed)[1] == 0


@pytest.mark.parametrize(
    ('operation', 'kind', 'outputs', 'columns', 'bulk'),
    [
        (heads, 'bfloat16', 2560, 32, True),
        (gated, 'int8', 8192, 64, True),
        (gated, 'int8', 8192, 64, False),
    ],
)
def test_weights_of_one_step_come_before_the_turn(
    on, monkeypatch, operation, kind, outputs, columns, bulk
):
    """And then there is one wait for the matrix units, behind all of the products."""
    tile = GemmTile(64, columns, 1024, 4 if bulk else 8, 1, bulk=bulk)
    monkeypatch.setattr(triton_gemm_launch, '_tile', lambda *arguments: tile)
    launches = on(90)
    operation(kind, 50, 1024, outputs)
    (product,) = launches()
    compiled = check(product, 90, INSTRUCTION[kind])
    before, _, after = compiled.asm['ptx'].partition('griddepcontrol.wait')
    copied = 'cp.async.bulk.tensor' if bulk else 'st.shared'  # else loaded, and put there
    assert copied in before and 'st.global' not in before and 'wgmma' not in before
    assert after.count('wgmma.wait_group') == 1


@pytest.mark.parametrize('group', [0, 128])
def test_packed_weights_are_written_out(monkeypatch, group):
    from quantvla_ros.kernels import triton_expand

    recorder = Recorder(triton_expand.expand_kernel)
    monkeypatch.setattr(triton_expand, 'expand_kernel', recorder)
    _, weight = operands(f'int4 {group}', 816, 2048, 32768)
    triton_expand.expanded(weight)
    (launch,) = recorder.launches
    check(launch, 90)


@pytest.mark.parametrize(
    ('capability', 'operation', 'kind'),
    [
        *((chip, residual, 'int8') for chip in chips(110)),
        *((chip, normed_heads, 'int8') for chip in chips(87, 90)),
        *((chip, gated, 'bfloat16') for chip in chips(120)),
    ],
)
def test_the_reduction_of_a_split_product_compiles(on, capability, operation, kind, monkeypatch):
    tile = GemmTile(64, 256 if operation is normed_heads else 64, 128, 4, 2, split=4)
    monkeypatch.setattr(triton_gemm_launch, '_tile', lambda *arguments: tile)
    launches = on(capability)
    operation(kind, 50, 1024, 4096)
    (reduction,) = (one for one in launches() if one.kernel.__name__ == 'reduce_kernel')
    check(reduction, capability)


@pytest.mark.skipif(
    tuple(map(int, version('triton').split('.')[:2])) < (3, 9),
    reason='what spills differs by compiler; the exclusions are those of Triton 3.9',
)
@pytest.mark.parametrize('one', EXCLUDED, ids=lambda one: one.name)
def test_an_excluded_tile_does_not_fit_into_the_registers(on, monkeypatch, one):
    """An exclusion that is no longer true costs speed: then it should go."""
    case = {
        'pairs in 128 integer sums a thread, without wgmma': (
            gated, 'int8', 816, 32768, 87, GemmTile(128, 256, 128, 8, 3)
        ),
        'int8 in 128 sums a thread, before Hopper': (
            gelu, 'int8', 768, 4304, 87, GemmTile(128, 256, 128, 8, 2)
        ),
        'packed groups in 128 sums a thread, without wgmma': (
            gelu, 'int4 128', 768, 4304, 87, GemmTile(256, 128, 128, 8, 3, left=True)
        ),
    }  # fmt: skip
    operation, kind, rows, outputs, capability, tile = case[one.name]
    name, _, group = kind.partition(' ')
    product = Product(
        name, rows, outputs, 2048, operation is not gelu, 0, int(group or 0), operation is heads
    )
    assert exclusion(tile, product, divmod(capability, 10)) is one
    launches = on(capability)
    monkeypatch.setattr(triton_gemm_launch, '_tile', lambda *arguments: tile)
    operation(kind, rows, 2048, outputs)
    (launch,) = launches()
    _, spilled = resources(launch.compiled_for(capability))
    assert spilled > FEW


@pytest.mark.parametrize('capability', sorted(SHARED))
def test_every_product_has_a_tile_that_is_not_excluded(capability):
    limits = {'shared': SHARED[capability], 'capability': divmod(capability, 10)}
    for kind, group in (('bfloat16', 0), ('int8', 0), ('int4', 0), ('int4', 64), ('int4', 128)):
        for rows in (1, 16, 17, 33, 50, 65, 256, 816, 3000):
            for pairs, head, of_heads in (
                (False, 0, False), (True, 0, False), (True, 0, True), (True, 64, True)
            ):  # fmt: skip
                product = Product(kind, rows, 4096, 1024, pairs, head, group, of_heads)
                tile = choose_gemm_tile(product, processors=PROCESSORS[capability], **limits)
                assert exclusion(tile, product, limits['capability']) is None


HADAMARD = torch.tensor([[1.0, 1.0], [1.0, -1.0]])


def hadamard(size):
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(HADAMARD, matrix)
    return matrix / size**0.5


@pytest.mark.parametrize(
    ('capability', 'width', 'rows', 'precision', 'instruction'),
    [
        *((chip, 2048, None, 'own', None) for chip in chips(110)),
        *((chip, 2048, Rows(), 'own', None) for chip in chips(87)),
        *(
            (chip, 2048, Rows(rotation=hadamard(64)), 'own', BF16)
            for chip in chips(87, 89, 90, 110, 120)
        ),
        *((chip, 1024, Rows(rotation=hadamard(32)), 'tf32x3', TF32) for chip in chips(87, 90)),
        *(
            (chip, 1024, Rows(rotation=hadamard(64).repeat(16, 1, 1)), 'own', BF16)
            for chip in chips(90, 110)
        ),
    ],
)
def test_a_norm_compiles(on, capability, width, rows, precision, instruction, monkeypatch):
    from quantvla_ros.kernels import triton_norms

    launches = on(capability)
    modulation = (vector(width), vector(width))
    triton_norms.rms_norm(empty(50, width), None, eps=1e-6, modulation=modulation, rows=rows)
    triton_norms.layer_norm(empty(50, width), vector(width), vector(width), eps=1e-6, rows=rows)
    adaptive, plain = launches()
    for launch in (adaptive, plain) if EVERYTHING else (adaptive,):
        launch.arguments['PRECISION'] = precision
        check(launch, capability, instruction)


@pytest.mark.parametrize('width', [1, 2])
def test_a_norm_of_the_shortest_rows_compiles(on, width):
    """A row of one number has no second that it could be rounded together with."""
    from quantvla_ros.kernels import triton_norms

    launches = on(90)
    triton_norms.rms_norm(empty(1, width), vector(width), eps=1e-6)
    (launch,) = launches()
    assert launch.arguments['PTX'] and launch.arguments['BLOCK'] == width
    compiled = check(launch, 90)
    assert ('cvt.rn.bf16x2.f32' in compiled.asm['ttir']) == (width > 1)


def test_programs_of_long_rows_lie_beside_each_other(on):
    """Where four of them fit on a multiprocessor, 816 rows take two turns of an H100."""
    from quantvla_ros.kernels import triton_norms

    launches = on(90)
    triton_norms.quantize_rows(empty(816, 16384), Rows())
    (launch,) = launches()
    registers, _ = resources(check(launch, 90))
    assert 4 * registers * 32 * launch.options['num_warps'] <= 65536


def unfinished(dtype, parts, width):
    """The sums of a product of few rows, with all that may finish them."""
    from quantvla_ros.kernels.triton_norms import Unfinished

    integer = dtype == torch.int32
    return Unfinished(
        empty(parts, 50, width, dtype=dtype), vector(50) if integer else None,
        vector(width) if integer else None, False, empty(width), vector(width), empty(50, width),
    )  # fmt: skip


@pytest.mark.parametrize(
    ('dtype', 'parts', 'rows'),
    [
        (torch.float32, 4, Rows()),
        (torch.int32, 8, None),
        (torch.int32, 8, Rows(permutation=torch.arange(1024), scale=torch.tensor(0.1))),
    ],
    ids=['floats', 'integers', 'permuted'],
)
def test_a_norm_waits_for_the_sums_alone_and_asks_for_all_of_them_at_once(
    on, dtype, parts, rows
):
    """Each load that waits for another is a trip to the L2, on every layer of every step."""
    from quantvla_ros.kernels import triton_norms
    from quantvla_ros.kernels.fused_types import Norm

    launches = on(90)
    left = unfinished(dtype, parts, 1024)
    norm = Norm(None, modulation=(vector(1024), vector(1024)), rows=rows)
    triton_norms.finish(left, left.residual, norm)
    (launch,) = launches()
    compiled = check(launch, 90)
    before, _, after = compiled.asm['ptx'].partition('griddepcontrol.wait')
    # What comes at once reads nothing that this one or the product before writes (`triton_start`).
    assert 'st.global' not in before and 'griddepcontrol.launch_dependents' in before
    each = -(-1024 // (32 * launch.options['num_warps']))  # values of a thread
    loaded = sum(int(n or 1) for n in re.findall(r'ld\.global(?:\.v(\d))?\.b32', after))
    assert loaded == parts * each
    if dtype == torch.float32:
        code = instructions(compiled).partition('ACQBULK')[2]
        assert code.rindex('LDG') < code.index(' FADD')


@pytest.mark.parametrize(
    ('capability', 'queries', 'total', 'head_counts', 'size', 'options'),
    [
        *((chip, 816, 816, (8, 1), 256, {}) for chip in chips(87, 90, 110)),
        *(
            (chip, 50, 866, (8, 1), 256, {'count': torch.empty(1, dtype=torch.int32)})
            for chip in chips(87, 90)
        ),
        *((chip, 512, 512, (16, 16), 72, {'segment': 256}) for chip in chips(87, 90)),
        *((chip, 552, 552, (16, 8), 128, {'causal': True}) for chip in chips(120)),
        *((chip, 49, 49, (32, 32), 48, {}) for chip in chips(89)),
    ],
)
def test_attention_compiles(on, capability, queries, total, head_counts, size, options):
    from quantvla_ros.kernels import triton_attention

    heads_, kv_heads = head_counts
    launches = on(capability)
    keys = empty(total, kv_heads, size)
    triton_attention.attention(
        empty(queries, heads_, size), keys, keys, scale=size**-0.5, **options
    )
    launch, *join = launches()
    check(launch, capability, BF16)
    assert [one.kernel.__name__ for one in join] == ['join_kernel'] * launch.arguments['AFTER']
    for one in join:
        check(one, capability)


