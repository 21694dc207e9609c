# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the files that come with the package lie: in the source tree, or where it was installed."""
from __future__ import annotations

import os
from pathlib import Path

from quantvla_ros.errors import QuantVLAError


def share(relative: str) -> Path:
    """Path of a file or folder of the package ('config/contracts/tabletop.yaml').

    Raises:
        QuantVLAError: it is in none of the places.
    """
    places = [Path(__file__).resolve().parents[2]]
    places += [
        Path(prefix) / 'share' / 'quantvla_ros'
        for prefix in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix
    ]
    for place in places:
        if (place / relative).exists():
            return place / relative
    raise QuantVLAError(
        f'{relative}: expected it with the package, found it in none of '
        f'{", ".join(str(place) for place in places)}; build and source the workspace again'
    )
