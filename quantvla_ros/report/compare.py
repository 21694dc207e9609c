# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How far one policy's action chunks are from another's, in numbers.

Knows arrays and names; knows nothing of policies, bags or files. All errors but `rms` and `largest`
of a joint are in normalised actions, where every joint counts alike whatever its unit. With q the
policy, f the one it is held against (usually the float policy), on the same noise:

    relative               |q - f| / |f|           2-norms over all numbers in question
    relative_to_variation  |q - f| / |f - mean f|  mean over observations and rows, by joint
    cosine                 <q, f> / (|q| |f|)
    frame error            |q_i - f_i| / sqrt(mean_j |f_j|^2)  of observation i

`relative` is what QuantVLA's reproductions and the manifest report. It shrinks where actions are
far from zero all the time; `relative_to_variation` does not. The root mean square of the frame
errors is `relative`.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

WORST = 5  # frames that are listed
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Chunks:
    """What one policy made of a sample of observations.

    Attributes:
        actions: [observations, chunk, action], in the robot's units.
        states: [observations, steps + 1, chunk, action], normalised: the noise, and what each
            denoising step made of it.
    """

    actions: np.ndarray
    states: np.ndarray


@dataclass(frozen=True)
class Moment:
    """Where an observation comes from.

    Attributes:
        time: ns, of the recording.
        seconds: since its episode began.
    """

    episode: str
    time: int
    seconds: float
    instruction: str


def compare(
    policy: Chunks,
    against: Chunks,
    moments: Sequence[Moment],
    names: Sequence[str],
    units: Sequence[str],
    thresholds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything that is said of a policy held against another.

    Args:
        policy, against: of the same observations and noise.
        moments: of each observation.
        names, units: of the dimensions of an action.
        thresholds: by name of a gripper, the number between closed and open.
    Returns:
        JSON; None where a quotient has nothing below it. `episodes` holds the sum of the squared
        frame errors of each, for `ratio`.
    """
    ours, theirs = (c.states[:, -1].astype(np.float64) for c in (policy, against))
    errors = frame_errors(ours, theirs)
    return {
        'relative': relative(ours, theirs),
        'relative_95': relative_interval(ours, theirs, [m.episode for m in moments]),
        'relative_to_variation': relative_to_variation(ours, theirs),
        'cosine': cosine(ours, theirs),
        'episodes': _squares(errors, moments),
        'frame_error': {
            'median': float(np.median(errors)),
            'p90': float(np.percentile(errors, 90)),
            'largest': float(errors.max()),
        },
        'joints': _joints(policy, against, names, units),
        'steps': _steps(policy.states, against.states),
        'worst_frames': _worst(policy, against, errors, moments, names, units),
        'grippers': [
            _flips(policy.actions[..., index], against.actions[..., index], name, threshold)
            for name, threshold in thresholds.items()
            for index in (list(names).index(name),)
        ],
    }


def relative(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """|ours - theirs| / |theirs|."""
    return _quotient(np.linalg.norm(ours - theirs), np.linalg.norm(theirs))


def relative_to_variation(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """|ours - theirs| / |theirs - mean|, the mean over all but the last axis."""
    mean = theirs.mean(axis=tuple(range(theirs.ndim - 1)))
    return _quotient(np.linalg.norm(ours - theirs), np.linalg.norm(theirs - mean))


def cosine(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Cosine of the angle between all numbers of both."""
    return _quotient(
        float(np.vdot(ours, theirs)), np.linalg.norm(ours) * np.linalg.norm(theirs)
    )


def frame_errors(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[observations] error of each, against the typical size of a chunk.

    Args:
        ours, theirs: [observations, chunk, action].
    """
    apart = np.linalg.norm((ours - theirs).reshape(len(ours), -1), axis=1)
    size = np.sqrt(np.square(theirs).sum() / len(theirs))
    return apart / max(float(size), 1e-30)


def relative_interval(
    ours: np.ndarray, theirs: np.ndarray, episodes: Sequence[str]
) -> tuple[float, float] | None:
    """95 % interval of `relative` by a bootstrap over episodes; None with fewer than five.

    Frames of an episode resemble each other, so whole episodes are drawn.
    """
    known = sorted(set(episodes))
    place = np.array([known.index(episode) for episode in episodes])
    apart = np.square(ours - theirs).reshape(len(ours), -1).sum(axis=1)
    size = np.square(theirs).reshape(len(theirs), -1).sum(axis=1)
    return _root_interval(*(np.bincount(place, values, len(known)) for values in (apart, size)))


def ratio(
    ours: Mapping[str, float], others: Mapping[str, float]
) -> tuple[float, tuple[float, float] | None]:
    """One policy's `relative` over another's, both against the same one, and its 95 % interval.

    Args:
        ours, others: the `episodes` of `compare`, of the same observations.
    Returns:
        The ratio, below 1 where ours is nearer; and the interval by a bootstrap over episodes.
    """
    if ours.keys() != others.keys():
        raise ValueError('expected the same episodes for both')
    above, below = (np.array([squares[e] for e in ours]) for squares in (ours, others))
    value = float(np.sqrt(above.sum() / max(float(below.sum()), 1e-30)))
    return value, _root_interval(above, below)


def _root_interval(above: np.ndarray, below: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of sqrt(sum above / sum below) over [episodes]; None with fewer than five."""
    if len(above) < 5:
        return None
    drawn = np.random.default_rng(0).integers(len(above), size=(RESAMPLES, len(above)))
    quotients = above[drawn].sum(axis=1) / np.maximum(below[drawn].sum(axis=1), 1e-30)
    low, high = np.percentile(np.sqrt(quotients), (2.5, 97.5))
    return float(low), float(high)


def _squares(errors: np.ndarray, moments: Sequence[Moment]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for error, moment in zip(errors.tolist(), moments, strict=True):
        sums[moment.episode] = sums.get(moment.episode, 0.0) + error**2
    return sums


def _joints(
    policy: Chunks, against: Chunks, names: Sequence[str], units: Sequence[str]
) -> list[dict[str, Any]]:
    apart = policy.actions.astype(np.float64) - against.actions
    rows = []
    for index, (name, unit) in enumerate(zip(names, units, strict=True)):
        ours, theirs = (
            c.states[:, -1, :, index, np.newaxis].astype(np.float64) for c in (policy, against)
        )
        rows.append(
            {
                'name': name,
                'unit': unit,
                'relative': relative(ours, theirs),
                'relative_to_variation': relative_to_variation(ours, theirs),
                'cosine': cosine(ours, theirs),
                'rms': float(np.sqrt(np.square(apart[..., index]).mean())),
                'largest': float(np.abs(apart[..., index]).max()),
            }
        )
    return rows


def _steps(ours: np.ndarray, theirs: np.ndarray) -> list[dict[str, Any]]:
    """After each Euler step along both policies' own trajectories, the noise left out."""
    return [
        {
            'step': step,
            'relative': relative(*(s[:, step].astype(np.float64) for s in (ours, theirs))),
            'cosine': cosine(*(s[:, step].astype(np.float64) for s in (ours, theirs))),
        }
        for step in range(1, theirs.shape[1])
    ]


def _worst(
    policy: Chunks,
    against: Chunks,
    errors: np.ndarray,
    moments: Sequence[Moment],
    names: Sequence[str],
    units: Sequence[str],
) -> list[dict[str, Any]]:
    worst = []
    for index in np.argsort(-errors, kind='stable')[:WORST].tolist():
        normalised = policy.states[index, -1] - against.states[index, -1]
        row, joint = divmod(int(np.abs(normalised).argmax()), normalised.shape[1])
        apart = policy.actions[index, row, joint] - against.actions[index, row, joint]
        worst.append(
            {
                'index': index,
                **asdict(moments[index]),
                'error': float(errors[index]),
                'joint': names[joint],
                'row': row,
                'difference': float(apart),
                'unit': units[joint],
            }
        )
    return worst


def _flips(
    ours: np.ndarray, theirs: np.ndarray, name: str, threshold: float
) -> dict[str, Any]:
    """Rows of the chunks [observations, chunk] on different sides of the threshold."""
    flipped = (ours > threshold) != (theirs > threshold)
    return {
        'name': name,
        'threshold': threshold,
        'flips': int(flipped.sum()),
        'of': int(flipped.size),
        'share': float(flipped.mean()),
        'frames': int(flipped.any(axis=1).sum()),
    }


def _quotient(above: float | np.floating, below: float | np.floating) -> float | None:
    return float(above / below) if below > 0.0 else None
