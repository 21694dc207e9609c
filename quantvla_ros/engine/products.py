# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The products of an engine's forward pass, from a network's sizes alone.

Knows sizes; knows nothing of weights, devices or times. Products of a few rows and columns that
take no time are left out: of the denoising step's embedding, of actions in and out.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from quantvla_ros.errors import BackendError
from quantvla_ros.kernels.gemm_tiles import FEW_ROWS, Product, expands
from quantvla_ros.models.dit import EXPANSION
from quantvla_ros.models.groot_n15 import GrootConfig
from quantvla_ros.models.pi05 import PI05Config
from quantvla_ros.models.prefix import StackConfig
from quantvla_ros.models.smolvla import SmolVLAConfig

# Networks of public sizes by the names that people use.
PUBLIC: dict[str, Callable[[], Any]] = {
    'pi05': PI05Config, 'gr00t_n1_5': GrootConfig, 'smolvla': SmolVLAConfig,
}

# What the tiles of a precision are looked for; a network of one holds bfloat16 products besides.
PRECISIONS: dict[str, tuple[str, int]] = {
    'bf16': ('bfloat16', 0),
    'w8a8': ('int8', 0),
    'w4a8': ('int4', 128),
    'paper-w4a8': ('int4', 0),
}


# The projections of the head's attention, by name: in floating point in every recipe.
_KEPT = frozenset(
    f'{head} {name}' for head in ('expert', 'head') for name in ('q', 'q+k+v', 'o')
)


@dataclass(frozen=True)
class NamedProduct:
    """A product of the forward pass.

    Attributes:
        name: where it is.
        product: its sizes, of kind bfloat16.
        times: how often it runs for an observation.
    """

    name: str
    product: Product
    times: int

    def of(self, precision: str, capability: tuple[int, int] = (8, 0)) -> Product:
        """The same with the operands that one of PRECISIONS has on GPUs of this capability."""
        kind, group = PRECISIONS['bf16' if self.name in _KEPT else precision]
        if kind == 'int4' and expands(self.product.rows, capability):
            kind, group = 'int8', 0
        return replace(self.product, kind=kind, group=group)


@dataclass(frozen=True)
class Workload:
    """What a network is asked for; chunk None: as the network has it.

    Raises:
        BackendError: a number out of range.
    """

    views: int
    tokens: int
    chunk: int | None = None

    def __post_init__(self) -> None:
        for name, least, most in (('views', 1, 16), ('tokens', 1, 4096), ('chunk', 1, 1024)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise BackendError(f'{name}: expected {least} to {most}, found {value}')


def products(config: Any, workload: Workload) -> list[NamedProduct]:
    """The products of one observation.

    Raises:
        BackendError: there is no engine for such a network.
    """
    make = _BY_CONFIG.get(type(config))
    if make is None:
        raise unknown(config, _BY_CONFIG)
    return make(config, workload)


def unknown(config: Any, known: Iterable[type]) -> BackendError:
    """That a network of this kind has no engine, only those that are known."""
    names = ', '.join(kind.__name__.removesuffix('Config') for kind in known)
    return BackendError(
        f'expected a network with an engine of its own ({names}), found '
        f'{type(config).__name__.removesuffix("Config")}'
    )


def _pi05(config: PI05Config, workload: Workload) -> list[NamedProduct]:
    vision, prefix, expert = config.vision, config.prefix, config.expert
    seen = workload.views * vision.tokens
    read = seen + workload.tokens
    chunk = config.chunk if workload.chunk is None else workload.chunk
    inner = expert.heads * expert.head_dim
    once = prefix.depth - 1  # the last layer has keys and values only
    each = expert.depth * config.steps

    def product(
        name: str, times: int, rows: int, columns: int, outputs: int,
        *, heads: bool = False, gated: bool = False, joined: bool = False,
    ) -> NamedProduct:
        sizes = Product(
            'bfloat16', rows, outputs, columns, heads or gated, heads=heads,
            joined=joined and rows <= FEW_ROWS,
        )  # fmt: skip
        return NamedProduct(name, sizes, times)

    def inputs(stack: Any) -> int:
        return (stack.heads + 2 * stack.kv_heads) * stack.head_dim

    width = prefix.heads * prefix.head_dim
    return [
        product('vision q+k+v', vision.depth, seen, vision.width, 3 * vision.width),
        product('vision o', vision.depth, seen, vision.width, vision.width),
        product('vision fc1', vision.depth, seen, vision.width, vision.mlp),
        product('vision fc2', vision.depth, seen, vision.mlp, vision.width),
        product('projector', 1, seen, vision.width, prefix.width),
        product('backbone q+k+v', once, read, prefix.width, inputs(prefix), heads=True),
        product(
            'backbone k+v of the last layer',
            1, read, prefix.width, 2 * prefix.kv_heads * prefix.head_dim, heads=True,
        ),
        product('backbone o', once, read, width, prefix.width),
        product('backbone gate+up', once, read, prefix.width, 2 * prefix.mlp, gated=True),
        product('backbone down', once, read, prefix.mlp, prefix.width),
        product('expert q+k+v', each, chunk, expert.width, inputs(expert), heads=True),
        product('expert o', each, chunk, inner, expert.width, joined=True),
        product('expert gate+up', each, chunk, expert.width, 2 * expert.mlp, gated=True),
        product('expert down', each, chunk, expert.mlp, expert.width, joined=True),
    ]  # fmt: skip


def _groot(config: GrootConfig, workload: Workload) -> list[NamedProduct]:
    vision, stack, features, head = config.vision, config.language, config.features, config.dit
    seen = workload.views * vision.tokens
    read = seen + workload.tokens
    chunk = config.chunk if workload.chunk is None else workload.chunk
    tokens = 1 + config.future_tokens + chunk
    crossing = -(-head.depth // 2)
    wide = stack.heads * stack.head_dim

    def product(
        name: str, times: int, rows: int, columns: int, outputs: int,
        *, joined: bool = False, **kind: Any,
    ) -> NamedProduct:
        kind['joined'] = joined and rows <= FEW_ROWS
        return NamedProduct(name, Product('bfloat16', rows, outputs, columns, **kind), times)

    def block(name: str, times: int, rows: int, width: int, mlp: int) -> list[NamedProduct]:
        return [
            product(f'{name} q+k+v', times, rows, width, 3 * width),
            product(f'{name} o', times, rows, width, width),
            product(f'{name} fc1', times, rows, width, mlp),
            product(f'{name} fc2', times, rows, mlp, width),
        ]

    width, mlp, steps = head.width, EXPANSION * head.width, config.steps
    return [
        *block('vision', vision.depth, seen, vision.width, vision.mlp),
        product('projector', 1, seen, vision.width, stack.width),
        product(
            'backbone q+k+v', stack.depth, read, stack.width,
            wide + 2 * stack.kv_heads * stack.head_dim,
            pairs=True, heads=True, head=stack.head_dim // 2,
        ),
        product('backbone o', stack.depth, read, wide, stack.width, joined=True),
        product('backbone gate+up', stack.depth, read, stack.width, 2 * stack.mlp, pairs=True),
        product('backbone down', stack.depth, read, stack.mlp, stack.width, joined=True),
        *block('features', features.depth, read, features.width, EXPANSION * features.width),
        product('keys and values of the features', 1, read, stack.width, 2 * crossing * width),
        product('head q', crossing * steps, tokens, width, width),
        product('head q+k+v', (head.depth - crossing) * steps, tokens, width, 3 * width),
        product('head o', head.depth * steps, tokens, width, width, joined=True),
        product('head fc1', head.depth * steps, tokens, width, mlp),
        product('head fc2', head.depth * steps, tokens, mlp, width, joined=True),
    ]  # fmt: skip


def _smolvla(config: SmolVLAConfig, workload: Workload) -> list[NamedProduct]:
    vision, text, expert, square = config.vision, config.text, config.expert, config.shuffle**2
    seen = workload.views * vision.tokens
    pictures = seen // square
    read = 1 + pictures + workload.tokens  # the state is a token of the prefix
    chunk = config.chunk if workload.chunk is None else workload.chunk
    once = text.depth - 1  # the last layer has keys and values only
    mixing = -(-expert.depth // config.self_every)  # layers that attend to their own tokens too
    crossing = expert.depth - mixing

    def product(
        name: str, times: int, rows: int, columns: int, outputs: int,
        *, joined: bool = False, **kind: bool,
    ) -> NamedProduct:
        kind['joined'] = joined and rows <= FEW_ROWS
        return NamedProduct(name, Product('bfloat16', rows, outputs, columns, **kind), times)

    def after(name: str, times: int, rows: int, stack: StackConfig) -> list[NamedProduct]:
        """What follows the attention of a layer."""
        inner = stack.heads * stack.head_dim
        return [
            product(f'{name} o', times, rows, inner, stack.width, joined=True),
            product(f'{name} gate+up', times, rows, stack.width, 2 * stack.mlp, pairs=True),
            product(f'{name} down', times, rows, stack.mlp, stack.width, joined=True),
        ]  # fmt: skip

    heads = {'pairs': True, 'heads': True}
    queries, kv = expert.heads * expert.head_dim, expert.kv_heads * expert.head_dim
    own = queries + 2 * kv  # the language model's are as many
    steps = config.steps
    return [
        product('vision q+k+v', vision.depth, seen, vision.width, 3 * vision.width),
        product('vision o', vision.depth, seen, vision.width, vision.width),
        product('vision fc1', vision.depth, seen, vision.width, vision.mlp),
        product('vision fc2', vision.depth, seen, vision.mlp, vision.width),
        product('projector', 1, pictures, vision.width * square, text.width),
        product('backbone q+k+v', once, read, text.width, own, **heads),
        product('backbone k+v of the last layer', 1, read, text.width, 2 * kv, **heads),
        *after('backbone', once, read, text),
        product('keys and values of cross layers', 2 * crossing, read, kv, kv),
        product('expert q+k+v', mixing * steps, chunk, expert.width, own, **heads),
        product('expert q', crossing * steps, chunk, expert.width, queries, **heads),
        *after('expert', expert.depth * steps, chunk, expert),
    ]  # fmt: skip


_BY_CONFIG: Mapping[type, Callable[[Any, Workload], list[NamedProduct]]] = {
    PI05Config: _pi05,
    GrootConfig: _groot,
    SmolVLAConfig: _smolvla,
}
