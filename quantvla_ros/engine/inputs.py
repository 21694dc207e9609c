# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every forward pass has around what it computes: buffers, the inputs in them, the result.

A forward pass reads and writes only buffers that are made with it, and their mirrors on the host,
so it can be captured in a graph; here is what is copied to them, and what is refused. What is
another in every inference the graph copies itself: the host only writes its own memory. Knows
buffers, counts and an embedding; knows nothing of what is computed, of checkpoints or of any one
architecture.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from quantvla_ros.engine.staging import Fetched, Staged
from quantvla_ros.errors import BackendError
from quantvla_ros.models.layers import rotary_table


class BufferedForward(ABC):
    """A forward pass for so many pictures and prompts up to so many tokens. Not thread-safe.

    `set_inputs`, then `run`, which reads and writes only buffers of this object, with operations
    that do not depend on what is in them, on the current stream, then `result`: inputs without a
    result between them wait. An architecture makes its buffers in its constructor, `_buffer` by
    `_buffer`, and says with `_stage` which of them are inputs.

    Attributes:
        ROWS: names of the inputs that are taken as they are, in the order of `set_inputs`. What
            is in their buffers is the last `receive`'s, as `run` begins with one.
        weights: with `config`, `device`, `dtype` (of the activations) and `embed_tokens`.
        images: [views, 3, image, image] float32 in [-1, 1].
        noise, actions: [chunk, action_dim] float32, what the flow starts from and ends at.
    """

    ROWS: ClassVar[tuple[str, ...]] = ('noise',)
    images: Tensor

    def __init__(self, weights: Any, views: int, prompt: int) -> None:
        if views < 1 or prompt < 1:
            raise BackendError(
                f'engine: expected at least a picture and a token, found {views} and {prompt}'
            )
        self.weights, self.views, self.prompt = weights, views, prompt
        config = weights.config
        self.noise = self._buffer(config.chunk, config.action_dim, dtype=torch.float32)
        self.actions = torch.zeros_like(self.noise)
        self._unread = False

    def set_inputs(self, images: Sequence[Tensor], tokens: Tensor, *rows: Tensor) -> None:
        """Take an observation's inputs, for `run`; they may be on the host.

        Args:
            images: of each view [3, image, image] in [-1, 1]; nothing is done with those that are
                where they belong already, in `images`.
            tokens: [T] ids of the prompt, without padding.
            rows: those of `ROWS`: state [1, state_dim], normalised, where the network reads one;
                noise [chunk, action_dim], standard normal.
        Raises:
            BackendError: other numbers of pictures, or a longer prompt, than this forward is for,
                or inputs of other sizes.
        """
        if len(images) != self.views:
            raise BackendError(f'engine: expected {self.views} pictures, found {len(images)}')
        wanted = [getattr(self, name).shape for name in self.ROWS]
        if [one.shape for one in rows] != wanted:
            named = ' and '.join(
                f'{name} {list(shape)}' for name, shape in zip(self.ROWS, wanted, strict=True)
            )
            found = ' and '.join(str(list(one.shape)) for one in rows)
            raise BackendError(f'engine: expected {named}, found {found}')
        if self._unread:  # the rows of before may still be on their way
            self._fetched.wait()
        self._unread = True
        self.set_prompt(tokens)
        if not self._lie_here(images):
            self._staged['images'].write(images)
        for name, one in zip(self.ROWS, rows, strict=True):
            self._staged[name].hold(one)

    def set_noise(self, noise: Tensor) -> None:
        """Take other noise [chunk, action_dim] beside the inputs of before."""
        self._staged['noise'].hold(noise)

    @abstractmethod
    def set_prompt(self, tokens: Tensor) -> None:
        """Embed a prompt's tokens [T] where the embedding is, and copy them to their buffer."""

    def result(self) -> Tensor:
        """Wait for the actions that were delivered: [chunk, action_dim] float32 on the host."""
        actions = self._fetched.read()
        self._unread = False
        return actions

    def run(self) -> Tensor:
        """Everything: `actions` from what `set_inputs` took, on the host too."""
        self.receive()
        actions = self.act()
        self.deliver()
        return actions

    def receive(self) -> None:
        """What `set_inputs` took of `ROWS` to their buffers."""
        for name in self.ROWS:
            self._staged[name].send()

    def deliver(self) -> None:
        """`actions` to the host, for `result`."""
        self._fetched.send()

    def act(self) -> Tensor:
        """`actions` from the inputs' buffers."""
        self.encode()
        return self.integrate()

    @abstractmethod
    def encode(self) -> None:
        """Pictures, prompt and state to what the action head reads in every step."""

    @abstractmethod
    def integrate(self) -> Tensor:
        """`noise` to `actions` by all denoising steps, on what `encode` left."""

    def _lie_here(self, images: Sequence[Tensor]) -> bool:
        """Whether pictures are where `images` holds them."""
        first, size = self.images.data_ptr(), self.images[0].nbytes
        return all(one.data_ptr() == first + n * size for n, one in enumerate(images))

    def _buffer(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros on the device, of the activations' dtype unless one is given."""
        weights = self.weights
        return torch.zeros(shape, dtype=dtype or weights.dtype, device=weights.device)

    def _rotary(self, rows: int, size: int, theta: float) -> tuple[Tensor, Tensor]:
        """Tables of the positions 0 to rows - 1: cos and sin, [rows, size / 2] float32."""
        places = torch.arange(rows, device=self.weights.device)
        cos, sin = rotary_table(places[None], size, theta)
        return cos[0, 0].contiguous(), sin[0, 0].contiguous()

    def _stage(self, *names: str) -> None:
        """What `set_inputs` fills, beside the pictures and `ROWS`; once these buffers are made."""
        names = ('images', *names, *self.ROWS)
        self._staged = {name: Staged(getattr(self, name)) for name in names}
        self._fetched = Fetched(self.actions)


class WordsLast(BufferedForward):
    """A forward pass whose prompt is the end of what it reads: how far it goes is a count.

    Attributes:
        text: [prompt, width] embeddings of the prompt's tokens, scaled; any number beyond them.
        counts: int32, what `_counts` says of the prompt's length.
    """

    text: Tensor
    counts: Tensor

    @abstractmethod
    def _counts(self, tokens: int) -> list[int]:
        """Numbers of rows that are read, with a prompt of so many tokens."""

    @torch.no_grad()
    def set_prompt(self, tokens: Tensor) -> None:
        """As `BufferedForward`."""
        embedding = self.weights.embed_tokens
        if tokens.dim() != 1 or not 1 <= tokens.numel() <= self.prompt:
            raise BackendError(
                f'engine: expected 1 to {self.prompt} tokens, found {list(tokens.shape)}'
            )
        rows = embedding(tokens.to(embedding.weight.device))
        self._staged['text'].write(rows * rows.shape[-1] ** 0.5)
        self.set_length(len(rows))

    def set_length(self, tokens: int) -> None:
        """How many rows of `text` are the prompt."""
        self._staged['counts'].write(torch.tensor(self._counts(tokens), dtype=torch.int32))

    def _stage(self, *names: str) -> None:
        super()._stage('text', 'counts', *names)
        self.set_length(self.prompt)
