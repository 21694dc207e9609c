# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What surrounds SmolVLA: its prompt, its pictures, the state that it is given."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantvla_ros.errors import CheckpointError
from quantvla_ros.models.data_config import DataConfig
from quantvla_ros.models.smolvla import SmolVLAConfig


class SmolVLAProcessor:
    """Observation to network inputs, network output to actions."""

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        config: Mapping[str, Any],
        data: DataConfig | None = None,
        *,
        sizes: SmolVLAConfig,
    ) -> Any:
        """Read what surrounds the network of a checkpoint or artifact."""
        raise CheckpointError(f'{directory}: SmolVLA cannot be run from a directory yet')
