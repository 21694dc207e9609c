# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a sample of recordings covers, what was left out of them and why, and what to beware of.

Knows counts by instruction, episode and phase of motion (see `phases`), and messages that did not
count; knows nothing of bags, pictures or how samples are drawn.
"""
from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BROKEN_SHARE = 0.05  # of all messages or instants; more is worth a warning
CONSTANT_SHARE = 0.5  # of all frames
SHOWN = 6  # groups named in a message; the rest is counted


@dataclass(frozen=True)
class Group:
    """Frames of one instruction, episode and phase.

    Attributes:
        found: frames that show something new.
        constant: further frames, which repeat the one before them and are left out.
        used: frames in the sample, held-out ones included.
    """

    instruction: str
    episode: str
    phase: str
    found: int
    constant: int
    used: int


@dataclass(frozen=True)
class Loss:
    """Messages of a topic that did not count, for one reason.

    Attributes:
        bag: its name.
        topic: where they were; a stream of the contract for instants.
        reason: one sentence.
        count: how many.
    """

    bag: str
    topic: str
    reason: str
    count: int


@dataclass(frozen=True)
class Readings:
    """The account of reading bags.

    Attributes:
        messages: messages read, broken ones included.
        broken: messages that could not be read, or whose content could not be used.
        instants: instants (pictures of the first required camera) that were looked at.
        refused: reasons for which an instant gave no observation; one may have several.
        bags_left_out: bags that gave nothing, with the reason, and bags given twice.
        faults: of bag files that were read as far as they go.
    """

    messages: int = 0
    broken: tuple[Loss, ...] = ()
    instants: int = 0
    observations: int = 0
    refused: tuple[Loss, ...] = ()
    bags_left_out: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caution:
    """Something about the data that a user should know.

    Attributes:
        kind: for programs: 'one_episode', 'one_instruction', 'phases_missing', 'constant',
            'broken', 'no_observation', 'bags_left_out', 'damaged_files', 'few_samples'.
        text: one sentence.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Coverage:
    """What a sample covers.

    Attributes:
        wanted: size of the sample that was asked for.
        groups: in the order of appearance.
        phases: those that a recording of this robot should show.
        readings: the account of reading.
    """

    wanted: int
    groups: tuple[Group, ...]
    phases: tuple[str, ...]
    readings: Readings

    @property
    def found(self) -> int:
        """Frames that show something new."""
        return sum(group.found for group in self.groups)

    @property
    def constant(self) -> int:
        """Frames left out because they repeat the one before them."""
        return sum(group.constant for group in self.groups)

    @property
    def used(self) -> int:
        """Frames in the sample."""
        return sum(group.used for group in self.groups)

    def by(self, *parts: str) -> dict[tuple[str, ...], tuple[int, int, int]]:
        """(found, constant, used) summed by some of 'instruction', 'episode' and 'phase'."""
        sums: dict[tuple[str, ...], tuple[int, int, int]] = {}
        for group in self.groups:
            key = tuple(getattr(group, part) for part in parts)
            found, constant, used = sums.get(key, (0, 0, 0))
            sums[key] = (found + group.found, constant + group.constant, used + group.used)
        return sums

    def counts(self) -> str:
        """What was found by episode, instruction and phase, in one line."""
        kinds: Sequence[tuple[tuple[str, ...], Callable[[tuple[str, ...]], str]]] = (
            (('episode', 'instruction'), lambda key: f'of episode {key[0]} ({key[1]!r})'),
            (('phase',), lambda key: f'while {key[0]}'),
        )
        texts = []
        for parts, words in kinds:
            sums = self.by(*parts)
            listed = [f'{found} {words(key)}' for key, (found, _, _) in sums.items()]
            texts.append('; '.join(listed[:SHOWN]))
            if len(listed) > SHOWN:
                texts[-1] += f' and {len(listed) - SHOWN} more'
        text = '; '.join(text for text in texts if text) or 'nothing'
        if self.constant:
            text += f'; left out {self.constant} constant frames (nothing moves in them)'
        return text

    def losses(self) -> list[str]:
        """What was broken, by topic and reason over all bags, the most frequent first."""
        broken = [f'{_many(n, "message")} of {topic}: {reason}' for (topic, reason), n in _sums(
            self.readings.broken)]
        refused = [f'{_many(n, "instant")} without an observation, {stream}: {reason}'
                   for (stream, reason), n in _sums(self.readings.refused)]
        return [*broken, *refused]

    def cautions(self) -> list[Caution]:
        """What a user should know before trusting the result."""
        readings, cautions = self.readings, []

        def caution(kind: str, text: str) -> None:
            cautions.append(Caution(kind, text))

        episodes = {(group.instruction, group.episode) for group in self.groups}
        instructions = {group.instruction for group in self.groups}
        if len(episodes) == 1:
            caution('one_episode', 'all frames come from a single episode: what is measured holds '
                    'for one course of motion; record several')
        if len(instructions) == 1:
            caution('one_instruction', f'all frames have a single instruction '
                    f'({next(iter(instructions))!r}): record each task that the policy is to do')
        shown = {group.phase for group in self.groups if group.used}
        missing = [phase for phase in self.phases if phase not in shown]
        if missing:
            caution('phases_missing', f'{len(missing)} of {len(self.phases)} phases of motion '
                    f'that matter do not occur: {_some(missing)}')
        total = self.found + self.constant
        if self.constant > CONSTANT_SHARE * total:
            caution('constant', f'{_share(self.constant, total)} of the frames are constant '
                    f'({self.constant} of {total}) and were left out; record motion')
        broken = sum(loss.count for loss in readings.broken)
        if broken > BROKEN_SHARE * readings.messages:
            caution('broken', f'{_share(broken, readings.messages)} of the messages are broken '
                    f'({broken} of {readings.messages}); look for the cause')
        lost = readings.instants - readings.observations
        if lost > BROKEN_SHARE * readings.instants:
            caution('no_observation', f'{_share(lost, readings.instants)} of the instants gave no '
                    f'observation ({lost} of {readings.instants}); look for the cause')
        if readings.bags_left_out:
            caution('bags_left_out', f'{_many(len(readings.bags_left_out), "bag")} left out: '
                    + _some([f'{bag} ({why})' for bag, why in readings.bags_left_out.items()]))
        if readings.faults:
            caution('damaged_files', f'files are damaged: {_some(readings.faults)}')
        if self.used < self.wanted:
            caution('few_samples', f'{self.used} frames instead of {self.wanted}: the bags hold no '
                    'more that differ')
        return cautions

    def content(self) -> dict[str, Any]:
        """The account for a manifest: plain lists, numbers and text."""
        readings = self.readings
        return {
            'frames': {'found': self.found, 'constant': self.constant, 'used': self.used},
            'groups': [vars(group) | {} for group in self.groups],
            'messages': readings.messages,
            'broken': [vars(loss) | {} for loss in readings.broken],
            'instants': readings.instants,
            'refused': [vars(loss) | {} for loss in readings.refused],
            'bags_left_out': dict(readings.bags_left_out),
            'faults': list(readings.faults),
            'cautions': [vars(caution) | {} for caution in self.cautions()],
        }

    def summary(self) -> list[str]:
        """A few lines for people."""
        by_episode, by_phase = self.by('instruction', 'episode'), self.by('phase')
        instructions = len(self.by('instruction'))
        lines = [
            f'{self.used} of {self.found} frames of {_many(len(by_episode), "episode")} with '
            f'{_many(instructions, "instruction")}; {_many(self.constant, "constant frame")} '
            'left out',
            'phases: ' + '; '.join(f'{key[0]} {used}' for key, (_, _, used) in sorted(
                by_phase.items(), key=lambda item: -item[1][2])),
        ]
        if losses := self.losses():
            lines.append(f'not usable: {"; ".join(losses)}')
        return [*lines, *(f'caution: {caution.text}' for caution in self.cautions())]


def covered(
    wanted: int,
    found: Mapping[tuple[str, str, str], int],
    constant: Mapping[tuple[str, str, str], int],
    drawn: Iterable[Hashable],
    phases: Sequence[str],
    readings: Readings,
) -> Coverage:
    """Put the account together.

    Args:
        wanted: size of the sample that was asked for.
        found, constant: frames by (instruction, episode, phase).
        drawn: the group of each frame in the sample.
        phases: those that a recording of this robot should show.
        readings: the account of reading.
    """
    used: dict[Hashable, int] = {}
    for group in drawn:
        used[group] = used.get(group, 0) + 1
    return Coverage(
        wanted=wanted,
        groups=tuple(
            Group(*group, found.get(group, 0), constant.get(group, 0), used.get(group, 0))
            for group in dict.fromkeys((*found, *constant))
        ),
        phases=tuple(phases),
        readings=readings,
    )


def _sums(losses: Iterable[Loss]) -> list[tuple[tuple[str, str], int]]:
    """Losses of all bags by topic and reason, the largest first."""
    sums: dict[tuple[str, str], int] = {}
    for loss in losses:
        key = (loss.topic, loss.reason)
        sums[key] = sums.get(key, 0) + loss.count
    return sorted(sums.items(), key=lambda item: -item[1])


def _some(names: Sequence[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return '; '.join(names[:SHOWN]) + more


def _share(part: int, whole: int) -> str:
    return f'{100 * part / max(whole, 1):.0f} %'


def _many(count: int, noun: str) -> str:
    return f'{count} {noun}' + ('' if count == 1 else 's')
