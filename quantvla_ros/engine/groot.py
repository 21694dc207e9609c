# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.5's forward pass on the fused operations: pictures, prompt and state to actions.

Knows the network's parts and the operations; knows nothing of checkpoints, prompts or graphs. It
means what `models.groot_n15` means, for one observation and one embodiment, written for few
kernels: keys and values that the DiT reads of the features are made once, for all blocks by one
product; everything that the denoising step alone decides is prepared; the Euler step is the
epilogue of the last product; every buffer has its place before the first run.

A shorter prompt than the buffers are for costs nothing else than its rows: tokens that follow the
prompt are seen by nobody, for the backbone is causal and attention to the features is counted.
"""
from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from quantvla_ros.engine.groot_weights import GrootWeights, HeadBlock
from quantvla_ros.engine.inputs import BufferedForward
from quantvla_ros.engine.norms import linear_normed, normed
from quantvla_ros.engine.siglip import SiglipForward, heads_of
from quantvla_ros.errors import BackendError
from quantvla_ros.kernels import fused
from quantvla_ros.kernels.fused_types import Quantized
from quantvla_ros.models.qwen3 import ROTARY_THETA

__all__ = ['GrootForward', 'GrootWeights']


class GrootForward(BufferedForward):
    """GR00T N1.5's forward pass; see `BufferedForward`. Tokens of pictures stand in the prompt.

    Attributes:
        words: [prompt, width] embeddings of the prompt's tokens but those of pictures; any number
            beyond them.
        order: [views tokens + prompt] int64: of each token of the prompt the row of the pictures'
            features or, counted on from those, of `words`; any such row beyond the prompt.
        count: [1] int32, tokens of the prompt, with those of pictures.
        state: [1, state_dim] float32, normalised.
    """

    ROWS = ('state', 'noise')
    weights: GrootWeights

    def __init__(
        self, weights: GrootWeights, views: int, prompt: int, *, images: Tensor | None = None
    ) -> None:
        """Make the buffers.

        Args:
            prompt: tokens beside those of the pictures, at most.
            images: where the pictures will lie, as `SiglipForward`.
        """
        super().__init__(weights, views, prompt)
        config, device = weights.config, weights.device
        stack, width = config.language, config.dit.width
        self.pictures = views * config.vision.tokens
        self.longest = self.pictures + prompt
        buffer = self._buffer
        self._vision = SiglipForward(weights.vision, views, images)
        self.images = self._vision.images
        self._embedded = buffer(self.longest, stack.width)
        self.words = self._embedded[self.pictures :]
        self.order = torch.arange(self.longest, device=device)
        self.count = torch.full((1,), self.longest, dtype=torch.int32, device=device)
        self.state = buffer(1, config.state_dim, dtype=torch.float32)
        self._prefix = buffer(self.longest, stack.width)
        self._features = torch.zeros_like(self._prefix)
        shape = (self.longest, stack.kv_heads, stack.head_dim)
        self._keys, self._values = buffer(*shape), buffer(*shape)
        self._context = tuple(buffer(self.longest, w.outputs) for w in weights.context)
        self._read = self._keys_and_values()
        before = 1 + config.future_tokens  # state and future tokens: the same in every step
        self._first = buffer(before + config.chunk, width)
        self._first[1:before] = weights.future
        self._tokens = torch.zeros_like(self._first)
        self._last = torch.zeros_like(self._first, dtype=torch.float32)
        self._euler = torch.full_like(self.noise[0], 1.0 / config.steps)
        self._cos, self._sin = self._rotary(self.longest, stack.head_dim, ROTARY_THETA)
        self._stage('words', 'order', 'count')

    @torch.no_grad()
    def set_prompt(self, tokens: Tensor) -> None:
        """Embed a prompt's words where the embedding is, and say where pictures and words go.

        Args:
            tokens: [T] ids, as many of them a picture's as `views` pictures have tokens.
        """
        embedding = self.weights.embed_tokens
        tokens = tokens.to(embedding.weight.device)
        seen = tokens == self.weights.config.image_token
        pictures, words = int(seen.sum()), int((~seen).sum())
        if tokens.dim() != 1 or pictures != self.pictures or not 1 <= words <= self.prompt:
            raise BackendError(
                f'engine: expected {self.pictures} tokens of pictures and 1 to {self.prompt} '
                f'others, found {pictures} and {words}'
            )
        order = torch.where(seen, seen.cumsum(0), self.pictures + (~seen).cumsum(0)) - 1
        self._staged['words'].write(embedding(tokens[~seen]))
        self._staged['order'].write(order)
        self._staged['count'].write(torch.tensor([len(tokens)], dtype=torch.int32))

    def encode(self) -> None:
        """Pictures, prompt and state to what the DiT reads in every step."""
        self.see()
        self.read()
        self.refine()

    def see(self) -> None:
        """Pictures to their rows among the prompt's embeddings."""
        weights = self.weights
        y = normed(self._vision.run(), weights.after_vision, weights.projector)
        fused.linear(y, weights.projector, out=self._embedded[: self.pictures])

    def read(self) -> None:
        """Embeddings to the backbone's features."""
        stack, layers = self.weights.config.language, self.weights.language
        rotary, scale = (self._cos, self._sin), stack.head_dim**-0.5
        x = torch.index_select(self._embedded, 0, self.order, out=self._prefix)
        y = normed(x, layers[0].before_attention, layers[0].qkv)
        for layer, after in zip(layers, (*layers[1:], None), strict=True):
            query = fused.attention_inputs(
                y,
                layer.qkv,
                rotary,
                stack.heads,
                stack.kv_heads,
                stack.head_dim,
                self._keys,
                self._values,
                0,
                q_norm=layer.q_norm,
                k_norm=layer.k_norm,
                eps=layer.head_eps,
            )
            y = fused.attention(
                query, self._keys, self._values, count=self.count, causal=True, scale=scale
            )
            y = linear_normed(y, layer.output, x, layer.before_mlp, layer.gate_up)
            y = fused.gated_linear(y, layer.gate_up, activation='silu')
            if after is not None:
                y = linear_normed(y, layer.down, x, after.before_attention, after.qkv)
            else:
                last = self.weights.after_language
                linear_normed(y, layer.down, x, last, None, out=self._features)

    def refine(self) -> None:
        """Features and state to the keys, values and tokens that do not change with the steps."""
        weights, config = self.weights, self.weights.config.features
        x = normed(self._features, weights.before_features, None)
        assert isinstance(x, Tensor)
        for block in weights.features:
            y = fused.linear(normed(x, block.before_attention, block.qkv), block.qkv)
            query, keys, values = heads_of(y, 3, config.heads)
            y = fused.attention(
                query, keys, values, count=self.count, scale=config.head_dim**-0.5
            )
            x = fused.linear(y, block.output, residual=x, out=x)
            x = block.mlp(x)
        for weight, out in zip(weights.context, self._context, strict=True):
            fused.linear(x, weight, out=out)
        first, second = weights.state
        fused.linear(
            fused.linear(self.state, first, activation='relu'), second, out=self._first[:1]
        )

    def integrate(self) -> Tensor:
        """`noise` to `actions` by all denoising steps, on what `encode` left."""
        x = self.noise
        for step in range(len(self.weights.steps)):
            hidden = self._hidden(step, x)
            x = fused.linear(
                hidden, self.weights.decoder[1], residual=x, gate=self._euler, out=self.actions
            )
        return x

    def velocity(self, step: int, x: Tensor) -> Tensor:
        """The flow's velocity at [chunk, action_dim] noisy actions, float32; for comparisons."""
        hidden = self._hidden(step, x)
        return fused.linear(hidden, self.weights.decoder[1], out=torch.empty_like(x))

    def _hidden(self, step: int, x: Tensor) -> Tensor:
        """Noisy actions [chunk, action_dim] to the decoder's hidden layer, [chunk, hidden]."""
        weights, at = self.weights, self.weights.steps[step]
        chunk = len(x)
        y = fused.linear(x, at.actions, activation='silu')
        fused.linear(y, weights.actions, residual=weights.positions, out=self._first[-chunk:])
        # What follows the blocks is in float32, as in the network: the norm writes what that reads.
        norms = [block.before_attention for block in at.blocks]
        norms.append(replace(at.final, out=self._last))
        tokens, scale = self._first, weights.config.dit.head_dim**-0.5
        z = fused.normed(tokens, norms[0])
        for index, (block, after) in enumerate(zip(at.blocks, norms[1:], strict=True)):
            query, keys, values, count = self._attended(index, block, z)
            y = fused.attention(query, keys, values, count=count, scale=scale)
            # The first block leaves `_first` as it is: most of its rows serve every step.
            tokens, z = fused.linear_norm(
                y, block.output, block.before_mlp, residual=tokens, out=self._tokens
            )
            y = fused.linear(z, block.first, activation='gelu_tanh')
            tokens, z = fused.linear_norm(y, block.second, after, residual=tokens, out=tokens)
        return fused.linear(self._last[-chunk:], weights.decoder[0], activation='relu')

    def _attended(
        self, index: int, block: HeadBlock, z: Tensor | Quantized
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries of a block's normed tokens, the keys and values they read, and how many."""
        y, heads = fused.linear(z, block.inputs), self.weights.config.dit.heads
        if block.crosses:
            keys, values = self._read[index]
            return heads_of(y, 1, heads)[0], keys, values, self.count
        query, keys, values = heads_of(y, 3, heads)
        return query, keys, values, None

    def _keys_and_values(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Where each block that reads the features finds keys and values, [longest, heads, D]."""
        dit, blocks = self.weights.config.dit, self.weights.steps[0].blocks
        parts = [
            part
            for one in self._context
            for part in heads_of(one, one.shape[1] // dit.width, dit.heads)
        ]
        crossing = [index for index, block in enumerate(blocks) if block.crosses]
        return {
            index: (parts[2 * place], parts[2 * place + 1]) for place, index in enumerate(crossing)
        }
