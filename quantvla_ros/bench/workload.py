# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is run: an architecture's sizes or a directory's, and one observation of the wanted lengths.

A network with random weights gets the processor of a checkpoint in the hub's layout, so that the
way from a camera's picture to the network is the one that a robot runs. Knows processors; knows
nothing of how a network is run or timed.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quantvla_ros.errors import BackendError, ObservationError
from quantvla_ros.models import export, groot_export, pi05_export, smolvla_export
from quantvla_ros.models.architecture import Processor
from quantvla_ros.models.architectures import architecture_of, empty_network, load_processor
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.observation.types import Observation
from quantvla_ros.quantization.artifact import MANIFEST

JOINTS = 7  # of the made-up robot: an arm of six and a gripper
CAMERA = (480, 640, 3)  # its pictures
_EXPORTERS: dict[str, Any] = {
    'pi05': pi05_export, 'gr00t_n1_5': groot_export, 'smolvla': smolvla_export,
}
_FILLERS = (' go', ' a', 'x', '1')  # what makes a command longer by a token, in most tokenizers


@dataclass(frozen=True)
class Lengths:
    """What decides the work; None: as the model has it.

    Attributes:
        views: cameras.
        prompt_tokens: all of the prompt but the pictures' tokens.
        chunk: actions of one inference.
        steps: of the integration.
    """

    views: int | None = None
    prompt_tokens: int | None = None
    chunk: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 1 <= value <= 1000:
                raise BackendError(f'{name}: expected a whole number from 1 to 1000, found {value}')

    def or_else(self, other: Lengths) -> Lengths:
        """These, and those of another where there are none."""
        return Lengths(*(
            getattr(other, name) if value is None else value for name, value in vars(self).items()
        ))


# What the published figures of each are about.
USUAL = {
    'pi05': Lengths(views=3, prompt_tokens=48),
    'gr00t_n1_5': Lengths(views=2, prompt_tokens=40),
    'smolvla': Lengths(views=3, prompt_tokens=48),
}


@dataclass(frozen=True)
class Workload:
    """A network to be run, and what it is run on.

    Attributes:
        name: for people.
        config: the hub's config.json.
        sizes: of the network, with the wanted chunk and steps.
        lengths: as they are, none of them None.
        directory: of the weights; None: they are random.
        artifact: whether the directory holds integers already.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    sizes: Any
    processor: Processor
    observation: Observation
    lengths: Lengths
    directory: Path | None = None
    artifact: bool = False


def random_workload(kind: str, sizes: Mapping[str, Any], wanted: Lengths) -> Workload:
    """A network of random weights.

    Args:
        kind: an architecture.
        sizes: for its exporter's `hub_config`; empty: the public ones.
        wanted: where it says nothing, `USUAL` does, then the public config.
    Raises:
        BackendError: lengths that cannot be had.
    """
    wanted = wanted.or_else(USUAL[kind])
    with tempfile.TemporaryDirectory() as folder:
        config = write_random(Path(folder), kind, sizes, wanted)
        processor = load_processor(folder, config)
    return _workload(f'{kind}, random weights', config, processor, wanted)


def write_random(
    directory: Path,
    kind: str,
    sizes: Mapping[str, Any],
    wanted: Lengths,
    weights: Callable[[Mapping[str, Any]], Iterable[tuple[str, Tensor]]] = lambda config: (),
) -> Mapping[str, Any]:
    """A checkpoint of a made-up robot in the hub's layout.

    Args:
        kind, sizes: as for `random_workload`.
        wanted: views and tokens of the prompt.
        weights: config.json to the weights; none, where only what surrounds them is of interest.
    Returns:
        config.json.
    """
    exporter, wanted = _EXPORTERS[kind], wanted.or_else(USUAL[kind])
    assert wanted.views is not None and wanted.prompt_tokens is not None
    slots = tuple(f'observation.images.camera{number + 1}' for number in range(wanted.views))
    numbers = export.statistics(np.linspace(-np.ones(JOINTS), np.ones(JOINTS), 101))
    names = tuple(f'joint_{number}' for number in range(JOINTS))
    features = export.Features(slots, numbers, numbers, names, names, 0.05)
    if exporter is groot_export:  # NVIDIA's config knows the network alone
        config = exporter.hub_config(**sizes)
    else:
        longest = max(200 if kind == 'pi05' else 48, wanted.prompt_tokens)
        config = exporter.hub_config(features, max_tokens=longest, **sizes)
    # The words are such that a filler is one token.
    exporter.write_checkpoint(directory, config, weights(config), features, {'go', 'go go go'})
    return config


def directory_workload(directory: Path, wanted: Lengths) -> Workload:
    """A checkpoint or artifact.

    Args:
        wanted: where it says nothing, the directory does: all of its cameras, a short command.
    Raises:
        BackendError: lengths that cannot be had.
        CheckpointError: the directory is incomplete.
    """
    config = read_config(directory)
    processor = load_processor(directory, config)
    artifact = (directory / MANIFEST).exists()
    if artifact and (wanted.chunk, wanted.steps) != (None, None):
        raise BackendError(
            f'{directory}: expected an artifact\'s own chunk and steps, which it was calibrated '
            f'for; leave out --chunk and --steps, or pass the float checkpoint'
        )
    made = _workload(str(directory), config, processor, wanted)
    return replace(made, directory=directory, artifact=artifact)


def _workload(
    name: str, config: Mapping[str, Any], processor: Processor, wanted: Lengths
) -> Workload:
    sizes = empty_network(config).config
    chunk = {} if wanted.chunk is None else {'chunk': wanted.chunk}
    steps = {} if wanted.steps is None else {'steps': wanted.steps}
    sizes = replace(sizes, **chunk, **steps)
    if sizes.chunk > getattr(sizes, 'positions', sizes.chunk):
        raise BackendError(
            f'chunk: expected at most {sizes.positions}, the positions that the network knows, '
            f'found {sizes.chunk}'
        )
    views = wanted.views or len(processor.slots)
    if views > len(processor.slots):
        raise BackendError(
            f'views: expected at most {len(processor.slots)} ({", ".join(processor.slots)}), '
            f'found {views}'
        )
    generator = np.random.default_rng(0)
    observation = Observation(
        stamp=0,
        images={
            slot: generator.integers(0, 256, CAMERA, dtype=np.uint8)
            for slot in processor.slots[:views]
        },
        state=processor.example_state(),
        instruction='go',
    )
    try:
        processor.inputs(observation)
    except ObservationError as error:
        raise BackendError(f'{name}, {views} views: {error}') from None
    if wanted.prompt_tokens is not None:
        command = _command(lambda text: _tokens(processor, observation, text), wanted.prompt_tokens)
        observation = replace(observation, instruction=command)
    tokens = _tokens(processor, observation, observation.instruction)
    lengths = Lengths(views, tokens, sizes.chunk, sizes.steps)
    kind = architecture_of(config).kind
    return Workload(name, kind, config, sizes, processor, observation, lengths)


def _tokens(processor: Any, observation: Observation, text: str) -> int:
    """Tokens of a command's prompt, those of pictures left out; huge if the policy refuses it."""
    try:
        if hasattr(processor, 'prompt'):  # pictures stand among the words
            pictures = processor.prompt.pictures * processor.prompt.tokens
            return len(processor.tokens(text)) - pictures
        if hasattr(processor, 'prompt_state'):  # the state stands in the prompt
            return len(processor.tokens(replace(observation, instruction=text)))
        return len(processor.tokens(text))
    except ObservationError:
        return 2**31


def _command(count: Callable[[str], int], wanted: int) -> str:
    """A command whose prompt has so many tokens.

    Raises:
        BackendError: it cannot be so short, or not of that length.
    """
    text = 'go'
    found = count(text)
    if found > wanted:
        raise BackendError(
            f'prompt-tokens: expected at least {found}, which this policy\'s prompt has with the '
            f'shortest command, found {wanted}'
        )
    while found < wanted:
        longer = [(count(text + filler), text + filler) for filler in _FILLERS]
        fitting = [(tokens, one) for tokens, one in longer if found < tokens <= wanted]
        if not fitting:
            raise BackendError(
                f'prompt-tokens: expected a command of {wanted} tokens, found none that this '
                f'policy takes, only one of {found}; ask for that'
            )
        found, text = min(fitting, key=lambda pair: pair[0])
    return text
