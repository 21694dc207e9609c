# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train the small pi0.5 of the built-in robot by behaviour cloning, and measure it.

    python -m training.train_tabletop --out assets/tabletop_pi05      # in the project's root

Flow matching as in pi0.5 (arXiv 2504.16054): x_t = t * noise + (1 - t) * action, the network
predicts noise - action, t from a Beta distribution that favours noisy instants (pi0, appendix B).
Everything is generated: frames come from the simulator's expert while training goes on.
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quantvla_ros.cli.main import main as command_line
from quantvla_ros.models import export, load_model, pi05_export
from quantvla_ros.models.architectures import build_network
from quantvla_ros.models.checkpoint import count_parameters
from quantvla_ros.models.pi05 import PI05, Prefix
from quantvla_ros.sim.tabletop.scene import CUBE_COLOURS, TRAY_COLOURS
from quantvla_ros.sim.tabletop.tasks import PHRASES
from training.dataset import CAMERAS, FrameStore, Layout, sample_actions_and_states

CONTRACT = Path(__file__).resolve().parents[1] / 'config' / 'contracts' / 'tabletop.yaml'
JOINTS = ('base_yaw', 'shoulder_pitch', 'elbow_pitch', 'wrist_pitch', 'gripper')
SLOTS = tuple(f'observation.images.{camera}' for camera in CAMERAS)
IMAGE, HORIZON, EXECUTE, ACTION_DIM = 112, 16, 8, 8
# [width, depth, mlp, heads, kv_heads, head_dim]; vision [width, depth, heads, mlp]
SIZES = {
    'vlm': [256, 5, 512, 8, 1, 32],
    'exp': [192, 5, 384, 8, 1, 32],
    'vis': [192, 4, 6, 512],
    'vocab': 512,
}


def words() -> list[str]:
    """Every word a command of the simulator may hold."""
    phrases = [phrase for group in PHRASES.values() for phrase in group]
    text = ' '.join(phrases).replace('{cube}', '').replace('{tray}', '').split()
    return sorted({*text, *CUBE_COLOURS, *TRAY_COLOURS})


def initialize(model: PI05) -> None:
    """Start weights: residual branches small, adaRMS at identity with closed gates."""
    depth = 2 * model.config.prefix.depth
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(('o_proj', 'down_proj', 'out_proj', 'fc2')):
                module.weight.data *= depth**-0.5
            if name.endswith('dense'):
                nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def prefix_of(model: PI05, batch: dict[str, Tensor], pictures: list[Tensor]) -> Prefix:
    """The prefix of a batch of frames; pictures [B, image, image, 3] uint8 or float 0..255."""
    images = [(p.permute(0, 3, 1, 2).float() / 127.5 - 1.0) for p in pictures]
    tokens = batch['tokens'].long()
    present = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    return model.encode_prefix(images, [present] * len(images), tokens, tokens != 0)


def augment(picture: Tensor) -> Tensor:
    """Random gain and offset per picture and some pixel noise, as cameras have them."""
    shape = (len(picture), 1, 1, 1)
    gain = 1.0 + 0.1 * (torch.rand(shape, device=picture.device) * 2 - 1)
    offset = 12.0 * (torch.rand(shape, device=picture.device) * 2 - 1)
    noise = 2.0 * torch.randn_like(picture, dtype=torch.float32)
    return (picture.float() * gain + offset + noise).clamp(0, 255)


def flow_loss(
    model: PI05, batch: dict[str, Tensor], actions: Tensor, weight: Tensor, repeats: int
) -> Tensor:
    """Flow-matching loss; each prefix serves `repeats` draws of noise and time.

    Args:
        actions: [B, chunk, action_dim] normalised, padded with zeros.
        weight: [action_dim] of the squared errors.
    """
    prefix = prefix_of(model, batch, [augment(batch[camera]) for camera in CAMERAS])
    prefix = Prefix(
        tuple(k.repeat_interleave(repeats, 0) for k in prefix.keys),
        tuple(v.repeat_interleave(repeats, 0) for v in prefix.values),
        prefix.valid.repeat_interleave(repeats, 0),
    )
    target = actions.repeat_interleave(repeats, 0)
    noise = torch.randn_like(target)
    # Beta(1.5, 1) by inversion of its distribution function t^1.5
    t = torch.rand(len(target), device=target.device) ** (1 / 1.5) * 0.999 + 0.001
    x = t[:, None, None] * noise + (1 - t[:, None, None]) * target
    velocity = model.velocity(x, prefix, model.modulation(t))
    return ((velocity - (noise - target)).square() * weight).mean()


def describe_data(workers: int) -> tuple[export.Features, dict[str, Any]]:
    """Statistics of some episodes, and the checkpoint's config with them."""
    parts = list(sample_actions_and_states(96, HORIZON, workers))
    state = export.statistics(np.concatenate([joints for joints, _ in parts]))
    action = export.statistics(np.concatenate([c.reshape(-1, c.shape[-1]) for _, c in parts]))
    features = export.Features(SLOTS, state, action, JOINTS)
    config = pi05_export.hub_config(
        features,
        image=IMAGE,
        chunk=HORIZON,
        execute=EXECUTE,
        max_action_dim=ACTION_DIM,
        sizes=SIZES,
        max_tokens=64,
    )
    return features, config


def optimizer_of(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices alone."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{'params': decay, 'weight_decay': 0.02}, {'params': plain, 'weight_decay': 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=decay[0].is_cuda)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move the averaged weights towards the trained ones: the average is what is kept."""
    mine, theirs = list(average.parameters()), list(model.parameters())
    torch._foreach_lerp_(mine, theirs, 1 - keep)


def train(args: argparse.Namespace) -> None:
    """Train and write the averaged network to `args.out`."""
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    started = time.monotonic()
    features, config = describe_data(args.workers)
    with torch.device(device):
        model = build_network(config)
    initialize(model)
    if args.resume:
        model.load_state_dict(load_model(args.resume, device).state_dict())
    model.requires_grad_(True).train()
    # The workers need the processor files from the start.
    pi05_export.write_checkpoint(args.out, config, model.state_dict().items(), features, words())
    store = FrameStore(
        Layout(args.frames, IMAGE, HORIZON),
        args.out,
        workers=args.workers,
        first_seed=args.first_seed,
        device=device,
    )
    low = torch.tensor(features.action['q01'], dtype=torch.float32, device=device)
    high = torch.tensor(features.action['q99'], dtype=torch.float32, device=device)
    weight = torch.full((ACTION_DIM,), 0.1, device=device)
    weight[: len(JOINTS)] = 1.0
    optimizer = optimizer_of(model, args.lr)
    average = copy.deepcopy(model).requires_grad_(False)
    print(f'{count_parameters(model) / 1e6:.2f} M parameters', flush=True)
    while store.ready < min(20 * args.batch, args.frames):
        store.collect(wait=True)
    print(f'{time.monotonic() - started:.0f} s: first {store.ready} frames', flush=True)
    begin, step, recent = time.monotonic(), 0, []
    while (progress := (time.monotonic() - begin) / (60 * args.minutes)) < 1:
        lr = args.lr * min(1.0, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group['lr'] = max(lr, 1e-6)
        if step % 20 == 0:
            store.collect()
        batch = store.batch(torch.randint(store.ready, (args.batch,), device=device))
        normal = 2 * (batch['actions'] - low) / (high - low) - 1
        actions = nn.functional.pad(normal, (0, ACTION_DIM - normal.shape[-1]))
        with torch.autocast(device.type, torch.bfloat16):
            loss = flow_loss(model, batch, actions, weight, args.repeats)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        follow(average, model, keep=min(0.999, (1 + step) / (10 + step)))
        recent.append(loss.detach())
        step += 1
        if step % 250 == 0:
            print(
                f'{time.monotonic() - started:5.0f} s  step {step:6d}  '
                f'loss {torch.stack(recent).mean().item():.4f}  '
                f'{step / (time.monotonic() - begin):.1f} steps/s  {store.ready} frames',
                flush=True,
            )
            recent.clear()
    frames = store.ready
    store.close()
    pi05_export.write_checkpoint(args.out, config, average.state_dict().items(), features, words())
    summary = {
        'steps': step,
        'batch': args.batch,
        'repeats': args.repeats,
        'frames': frames,
        'minutes': args.minutes,
        'lr': args.lr,
        'seed': args.seed,
        'torch': torch.__version__,
        'parameters': count_parameters(average),
    }
    (args.out / 'training.json').write_text(json.dumps(summary, indent=2) + '\n')


def main() -> None:
    """Train, write the checkpoint, print closed-loop success."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, required=True, help='checkpoint directory to write')
    parser.add_argument('--minutes', type=float, default=7.9, help='training time')
    parser.add_argument('--frames', type=int, default=550_000, help='frames kept on the device')
    parser.add_argument('--batch', type=int, default=512)
    parser.add_argument('--repeats', type=int, default=4, help='noise draws for each frame')
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first-seed', type=int, default=1_000_000, help='of the training scenes')
    parser.add_argument('--workers', type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--resume', type=Path, help='checkpoint to start from')
    parser.add_argument('--eval-seeds', type=int, default=200)
    args = parser.parse_args()
    train(args)
    if args.eval_seeds:
        arguments = ['--policy', str(args.out), '--contract', str(CONTRACT), '--tabletop']
        arguments += ['--seeds', str(args.eval_seeds), '--device', args.device]
        sys.exit(command_line(['evaluate', *arguments]))


if __name__ == '__main__':
    main()
