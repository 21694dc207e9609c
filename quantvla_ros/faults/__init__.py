# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Scripted faults against the policy node as a process: what it does, and how fast.

`cases` is the table, `runner` plays one case on a `stage`, `measure` reads the recorded series,
`results` shows them.
"""
