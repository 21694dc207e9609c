# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint or artifact directory is, and all that it lacks before it can run."""
