# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels compiled for GPUs that are not here, and what the result asks of them."""
from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

# capability: bytes of shared memory that one program may use (CUDA programming guide)
SHARED = {87: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 110: 227 * 1024, 120: 99 * 1024}
INTEGER = r'(wgmma\.mma_async\.\S*s32\.s8\.s8|mma\.sync\.\S*s32\.s8\.s8\.s32)'
TF32 = r'(wgmma\.mma_async\.\S*tf32|mma\.sync\.\S*tf32|tcgen05\.mma\.\S*tf32)'
BF16 = r'(wgmma\.mma_async\.\S*bf16|mma\.sync\.\S*bf16|tcgen05\.mma\.\S*f16)'
FP16 = r'(wgmma\.mma_async\.\S*f16\.f16|mma\.sync\.\S*f16\.f16|tcgen05\.mma\.\S*f16)'
# Every combination of GPU and configuration takes long; what CI compiles by default has each kernel
# for each GPU whose code differs.
EVERYTHING = os.environ.get('QUANTVLA_AOT') == 'all'


def chips(*some):
    """The GPUs to compile for: these, or all where everything is asked for."""
    return sorted(SHARED) if EVERYTHING or not some else some


def compile_for(capability, kernel, signature, constants, **options):
    """The kernel's code for sm_`capability`; its pointers are aligned to 16 bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    pointers = [names.index(name) for name, kind in signature.items() if kind.startswith('*')]
    aligned = [names.index(name) for name in options.pop('multiples_of_16', ())]
    source = ASTSource(
        kernel,
        {**signature, **dict.fromkeys(constants, 'constexpr')},
        constexprs=constants,
        attrs={(i,): [['tt.divisibility', 16]] for i in (*pointers, *aligned)},
    )
    try:
        return triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
    except triton.runtime.errors.PTXASError as error:
        if 'is not defined for option' in str(error):
            pytest.skip(f'the ptxas of Triton {triton.__version__} does not know sm_{capability}')
        raise
    except RuntimeError as error:
        if 'Cannot find ptxas' in str(error):
            pytest.skip('this Triton comes without ptxas')
        raise


def resources(compiled):
    """Registers of a thread, and bytes of its stack: what did not fit into registers."""
    text = _dumped(compiled, '--dump-resource-usage')
    usage = re.search(r'REG:(\d+) STACK:(\d+)', text)
    assert usage is not None, text
    return int(usage[1]), int(usage[2])


def instructions(compiled):
    """What the GPU runs, in its order."""
    return _dumped(compiled, '--dump-sass')


def _dumped(compiled, what):
    import triton

    tools = Path(triton.__file__).parent / 'backends/nvidia/bin'
    if not (tools / 'cuobjdump').exists():
        pytest.skip('this Triton comes without cuobjdump')
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        return subprocess.run(
            [tools / 'cuobjdump', what, file.name],
            capture_output=True, text=True, check=True,
            env={**os.environ, 'PATH': f'{tools}:{os.environ.get("PATH", "")}'},
        ).stdout  # fmt: skip


OPTIONS = ('num_warps', 'num_stages', 'num_ctas', 'maxnreg', 'enable_fp_fusion')


@dataclass(frozen=True)
class Launch:
    """A kernel as it was about to be started, and with what."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    def compiled_for(self, capability):
        """Its code, specialised as Triton would specialise it for these arguments."""
        signature, constants, aligned = {}, {}, []
        arguments, options = dict(self.arguments), dict(self.options)
        if 'AHEAD' in arguments and capability >= 90:  # as `gpu.launch_options` for few rows
            arguments['AHEAD'] = options['launch_pdl'] = True
        for parameter in self.kernel.params:
            name, value = parameter.name, arguments.get(parameter.name, parameter.default)
            if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
                constants[name] = value
            elif isinstance(value, torch.Tensor):
                signature[name] = '*' + TYPES[value.dtype]
            elif type(value).__name__ == 'TensorDescriptor':
                block = ', '.join(map(str, value.block_shape))
                signature[name] = f'tensordesc<{TYPES[value.base.dtype]}[{block}]>'
            elif hasattr(value, 'block_shape'):  # a descriptor of tiles
                block = ','.join(map(str, value.block_shape))
                signature[name] = f'tensordesc<{TYPES[value.base.dtype]}[{block}]>'
            elif isinstance(value, float):
                signature[name] = 'fp32'
            else:
                signature[name] = 'i32'
                if value % 16 == 0:
                    aligned.append(name)
        return compile_for(
            capability, self.kernel, signature, constants, multiples_of_16=aligned, **options
        )


TYPES = {
    torch.float32: 'fp32', torch.float16: 'fp16', torch.bfloat16: 'bf16', torch.int8: 'i8',
    torch.uint8: 'u8', torch.int32: 'i32', torch.int64: 'i64', torch.bool: 'i1',
}  # fmt: skip


class Recorder:
    """Stands in for a kernel: notes its launches instead of running them.

    Arguments:
        as_on_gpu: constants that the launcher sets otherwise for the tensors of a CPU.
    """

    def __init__(self, kernel, **as_on_gpu):
        self.kernel, self.launches, self._as_on_gpu = kernel, [], as_on_gpu

    def __getitem__(self, grid):
        def launch(*values, **named):
            arguments = dict(zip(self.kernel.arg_names, values, strict=False))
            options = {name: named.pop(name) for name in OPTIONS if name in named}
            arguments |= named | self._as_on_gpu
            assert set(arguments) <= set(self.kernel.arg_names)
            self.launches.append(Launch(self.kernel, arguments, options))

        return launch
