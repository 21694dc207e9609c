# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that we cannot run, told by their names: so that an error says what they are.

Knows how public models spell their configs and keys; knows nothing of those that we can run beyond
that. The order of a table counts: what is more special comes first.
"""
from __future__ import annotations

import re
from collections.abc import Iterable

# What config.json calls models, in lower case and with nothing but letters and digits.
_CONFIGS = (
    (r'pi0fast.*|.*fastpolicy', 'pi0-FAST, which writes actions as text'),
    (r'pi0\D*', 'pi0, which pi0.5 followed with another action expert'),
    (r'gr?oo?tn16.*|gr?oo?tn1d6.*|gr00tn16.*|gr00tn1d6.*', 'GR00T N1.6'),
    (r'gr?oo?tn17.*|gr?oo?tn1d7.*|gr00tn17.*|gr00tn1d7.*', 'GR00T N1.7'),
    (r'gr00tn1|groot1', 'the first GR00T N1'),
    (r'groot.*', 'a GR00T of lerobot, of which only N1.5 is supported'),
    (r'smolvla.+', 'a variant of SmolVLA'),
    (r'pi05.+', 'a variant of pi0.5'),
    (r'act', 'ACT, which has no language'),
    (r'diffusion|multitaskdit|vqbet|tdmpc|sac', 'a policy without a language backbone'),
    (r'xvla|wallx|openvla.*|prismatic.*|rdt.*|octo', 'another vision-language-action model'),
    (
        r'paligemma.*|gemma.*|smolvlm.*|idefics3|qwen\d.*|eagle.*|siglip.*',
        'a backbone without an action head; pass the policy that was trained from it',
    ),
)

# What keys look like; all of the patterns of a line are in the file.
_KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    ((r'lora_[AB]\b|lora_magnitude',), 'a LoRA adapter: merge it into its base model'),
    (
        (r'\.(qweight|qzeros|weight_packed|SCB|absmax|quant_state\b.*|weight_scale(_inv)?)$',),
        'a model that is quantized already: pass the one it was made of',
    ),
    (
        (r'^(un)?normalize_(inputs|outputs|targets)\.',),
        'a lerobot policy from before 0.4, with statistics among the weights: migrate it with '
        'lerobot\'s migrate_policy_normalization',
    ),
    ((r'^(module|_orig_mod)\.',), 'a training state: save it from the unwrapped model'),
    ((r'exp_avg',), 'an optimizer\'s state, not weights'),
    ((r'vlm_with_expert\.lm_expert\.',), 'SmolVLA'),
    (
        (r'gemma_expert\.model\.layers\.\d+\.input_layernorm\.dense\.', r'paligemma\.'),
        'pi0.5',
    ),
    ((r'gemma_expert\.model\.layers\.\d+\.input_layernorm\.weight', r'paligemma\.'), 'pi0'),
    ((r'paligemma\.(model\.)?language_model\.',), 'PaliGemma or pi0-FAST, without action expert'),
    ((r'^_groot_model\.', r'action_head\.vl_self_attention\.'), 'GR00T N1.5 as lerobot saves it'),
    ((r'action_head\.vl_self_attention\.',), 'GR00T N1.5'),
    ((r'backbone\.model\..*visual\.', r'action_head\.'), 'GR00T N1.7'),
    ((r'backbone\.model\.', r'action_head\.'), 'GR00T N1.6'),
    ((r'backbone\.', r'action_head\.'), 'the first GR00T N1'),
    ((r'^model\.vae_encoder|^model\.encoder_img_feat_input_proj',), 'ACT'),
    ((r'^diffusion\.',), 'a diffusion policy'),
    ((r'vision_backbone\.featurizer\.',), 'OpenVLA'),
)


def name_of_config(kind: object) -> str | None:
    """What a model is by its name in config.json; None: not one that we have heard of."""
    name = re.sub(r'[^a-z0-9]', '', kind.lower()) if isinstance(kind, str) else ''
    for pattern, title in _CONFIGS:
        if re.fullmatch(pattern, name):
            return title
    return None


def name_of_keys(names: Iterable[str]) -> str | None:
    """What a checkpoint is by the names of its tensors; None: nothing that we have heard of."""
    text = sorted(names)
    for patterns, title in _KEYS:
        if all(any(re.search(pattern, name) for name in text) for pattern in patterns):
            return title
    return None
