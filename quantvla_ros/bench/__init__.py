# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
