# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Observations of the tabletop arm with any words and fewer cameras."""
import dataclasses

from quantization_samples import observations

from quantvla_ros.observation.types import Observation


def saying(words: str, *, cameras: int = 2, seed: int = 0) -> Observation:
    """One with this command and the first so many cameras."""
    one = observations(1, seed)[0]
    images = dict(list(one.images.items())[:cameras])
    return dataclasses.replace(one, images=images, instruction=words)
