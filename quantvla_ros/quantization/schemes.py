# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The schemes by name, and replacing a model's layers by those of a scheme.

Knows that a scheme is a module with `from_linear` and `like`; knows nothing of what is in one.
Adding a scheme adds a file and one line here.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from quantvla_ros.errors import CalibrationError
from quantvla_ros.quantization.w8a8 import PRECISION, LinearW8A8

SCHEMES = {PRECISION: LinearW8A8}


def swap(
    model: nn.Module, names: Iterable[str], make: Callable[[nn.Linear], nn.Module]
) -> None:
    """Replace layers in place, one at a time, so that never two whole models are held.

    Args:
        model: whose layers are replaced.
        names: module paths of nn.Linear layers.
        make: from the float layer to what takes its place.
    Raises:
        CalibrationError: a path does not name a float linear layer, or `make` refuses its weight.
    """
    for name in names:
        path, _, attribute = name.rpartition('.')
        try:
            parent = model.get_submodule(path)
            linear = getattr(parent, attribute)
        except AttributeError:
            raise CalibrationError(
                f'{name}: expected a layer of the model, found no such; another model?'
            ) from None
        if not isinstance(linear, nn.Linear):
            raise CalibrationError(
                f'{name}: expected a float linear layer, found {type(linear).__name__}; '
                f'quantize a float checkpoint, once'
            )
        try:
            setattr(parent, attribute, make(linear))
        except CalibrationError as error:
            raise CalibrationError(f'{name}: {error}') from None
