# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Networks and what turns observations into their inputs and their outputs into actions."""
from quantvla_ros.models.checkpoint import load_model
from quantvla_ros.models.roles import Role

__all__ = ['Role', 'load_model']
