# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of packages that only some outputs need, imported when such an output is chosen.

Knows names of packages; knows nothing of nodes or topics.
"""
from __future__ import annotations

import importlib
import os
from typing import Any

from quantvla_ros.errors import ContractError


def interface(name: str, chosen_by: str) -> Any:
    """The class of 'package/action/Name' (or msg, srv).

    Args:
        name: of the interface.
        chosen_by: what in the contract asks for it, for the message.
    Raises:
        ContractError: its package is not installed; with the Debian package that holds it.
    """
    package, folder, kind = name.split('/')
    try:
        return getattr(importlib.import_module(f'{package}.{folder}'), kind)
    except (ImportError, AttributeError) as error:
        distribution = os.environ.get('ROS_DISTRO', '<distro>')
        debian = f'ros-{distribution}-{package.replace("_", "-")}'
        raise ContractError(
            f'{chosen_by}: expected {name}, found none ({error}); apt-get install {debian}, '
            'and source your ROS 2 anew'
        ) from error
