# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds GR00T N1.5: the chat prompt, its pictures, states and actions by parts."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import DataConfig


class GrootProcessor:
    """Observation to network inputs, network output to actions."""

    @classmethod
    def from_directory(
        cls, directory: Path, config: Mapping[str, Any], data: DataConfig | None = None
    ) -> Any:
        """Read what surrounds the network of a checkpoint or artifact."""
        raise CheckpointError(f'{directory}: GR00T N1.5 cannot be run from a directory yet')
