# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a policy's weights take, part by part, in float and quantized.

Knows networks and places; knows nothing of files. Everything that a quantized layer stores counts:
integers, scales, multipliers, permutations, rotations, biases.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantvla_ros.models.roles import Place, Role
from quantvla_ros.quantization.formats import BACKBONE, HEAD
from quantvla_ros.quantization.linear import QuantizedLinear

QUANTIZED_PARTS = (*BACKBONE, *HEAD)  # what the paper's memory figures are about


@dataclass(frozen=True)
class Part:
    """The linear layers of one role, or everything that is no linear layer.

    Attributes:
        role: None for the rest: embeddings, norms, convolutions.
        layers, quantized: how many there are, and how many of them are in integers.
        float_bytes, bytes: in the float checkpoint, and now.
    """

    role: Role | None
    layers: int
    quantized: int
    float_bytes: int
    bytes: int


def memory(model: Any, *, float_size: int = 2) -> list[Part]:
    """Memory by part.

    Args:
        model: a Network and nn.Module; its layers may be quantized.
        float_size: bytes of a float number as it is stored; 2 for bfloat16.
    """
    places: dict[str, Place] = model.linear_places()
    counted: set[int] = set()
    parts = []
    for role in Role:
        names = [name for name, place in places.items() if place.role == role]
        layers = [model.get_submodule(name) for name in names]
        if not layers:
            continue
        float_numbers = stored = 0
        for layer in layers:
            biased = layer.bias is not None
            float_numbers += layer.in_features * layer.out_features + biased * layer.out_features
            for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
                counted.add(id(tensor))
                size = tensor.element_size()
                if not isinstance(layer, QuantizedLinear) or tensor is layer.bias:
                    size = float_size
                stored += tensor.numel() * size
        count = sum(isinstance(layer, QuantizedLinear) for layer in layers)
        parts.append(Part(role, len(layers), count, float_numbers * float_size, stored))
    rest = sum(
        tensor.numel() * float_size
        for tensor in (*model.parameters(), *model.buffers())
        if id(tensor) not in counted
    )
    parts.append(Part(None, 0, 0, rest, rest))
    return parts


def quantized_parts(parts: list[Part]) -> tuple[int, int]:
    """Bytes in float and now of backbone and head, as the paper counts."""
    chosen = [part for part in parts if part.role in QUANTIZED_PARTS]
    return sum(part.float_bytes for part in chosen), sum(part.bytes for part in chosen)
