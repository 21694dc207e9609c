# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors a user can fix: each says what was expected, what was found and what to do.

Knows nothing of anything else. The command line prints such an error as one line and exits with
status 2; the node fails its transition with it. Any other exception is a bug of ours.
"""


class QuantVLAError(Exception):
    """Base of every error that the user, not the programmer, can mend."""


class ContractError(QuantVLAError):
    """A contract file is wrong, or a policy does not fit the robot's contract."""


class ObservationError(QuantVLAError):
    """A message cannot become part of an observation (encoding, size, missing joint)."""


class BagError(QuantVLAError):
    """A bag cannot be read, or lacks what was asked of it."""


class CheckpointError(QuantVLAError):
    """A checkpoint directory is incomplete, unknown or inconsistent."""


class ArtifactError(QuantVLAError):
    """A quantized artifact is incomplete, damaged or made for something else."""


class CalibrationError(QuantVLAError):
    """The calibration data or the recipe cannot give a usable artifact."""


class BackendError(QuantVLAError):
    """A precision or kernel is not available on this device."""
