# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""On-robot runtime for vision-language-action policies quantized by QuantVLA.

`load_policy(path)` is the whole Python interface a user needs; everything else is reached through
`python -m quantvla_ros COMMAND`.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

# In a colcon workspace the generated `quantvla_ros.msg` lives in another folder of the same name:
# without this the source tree would hide it.
__path__ = __import__('pkgutil').extend_path(__path__, __name__)

__version__ = '0.1.0'

if TYPE_CHECKING:
    from quantvla_ros.engine.policy import load_policy

__all__ = ['__version__', 'load_policy']


def __getattr__(name: str) -> Any:
    # torch takes a second to import; commands that do not need it should not pay for it.
    if name == 'load_policy':
        from quantvla_ros.engine.policy import load_policy

        return load_policy
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
