# Copyright 2026 quantvla_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Quantized artifacts: reading one, trusting nothing in it.

Knows the directory and the network it is for; knows nothing of bags or ROS. No pickle anywhere.
The manifest binds every file and every tensor by its hash. `artifact_writer` writes one.
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quantvla_ros.errors import ArtifactError, CalibrationError, QuantVLAError
from quantvla_ros.kernels.reference import SMALLEST
from quantvla_ros.models.architectures import architecture_of, empty_network
from quantvla_ros.models.checkpoint import read_config
from quantvla_ros.quantization.artifact_writer import write_artifact
from quantvla_ros.quantization.formats import place_empty_layers
from quantvla_ros.quantization.linear import QuantizedLinear
from quantvla_ros.quantization.manifest import MANIFEST, WEIGHTS, Manifest, read_manifest
from quantvla_ros.quantization.recipe import Recipe
from quantvla_ros.quantization.recipe_file import parse_recipe
from quantvla_ros.quantization.stored import DTYPES, count, file_hash, tensor_hash

__all__ = ['MANIFEST', 'Manifest', 'load_artifact', 'write_artifact']

LARGEST_SCALE = 1e30
READABLE = ('.json', '.safetensors', '.yaml', '.model', '.txt')  # what a processor could read
LARGEST_HEADER = 100 * 2**20  # bytes; the format's own bound


def load_artifact(
    path: str | Path,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | None = None,
    *,
    mapped: bool = False,
) -> tuple[Any, Manifest]:
    """Read an artifact, checking all of it.

    Args:
        path: the directory.
        device: where the weights go, one tensor at a time.
        dtype: of the layers that are not quantized; None: bfloat16 on a GPU, float32 on the CPU.
            As in a float checkpoint, the action and time projections are float32 always.
        mapped: leave weights that the host gets as they are stored in the file, to be read again
            when they are used: for a short while, as the file must not change meanwhile.
    Returns:
        The network in evaluation mode, and the manifest.
    Raises:
        ArtifactError: anything is missing, damaged, changed, or made for something else.
    """
    path, device = Path(path), torch.device(device)
    if dtype is None:
        dtype = torch.bfloat16 if device.type == 'cuda' else torch.float32
    manifest = read_manifest(path)
    _check_files(path, manifest)
    model = _empty_model(path, manifest)
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    fixed = _fixed(model)
    _check_tensors(path, manifest, wanted, fixed)
    state: dict[str, Tensor] = {}
    in_float32 = architecture_of(read_config(path)).float32_modules
    delicate = set(manifest.content['float32_tensors'])  # 16 bits would spoil these
    file = path / WEIGHTS
    try:
        with safe_open(file, framework='pt') as opened:
            for name in wanted:
                tensor = opened.get_tensor(name)
                _check_values(file, name, tensor, manifest.content['tensors'][name]['sha256'])
                target = tensor.dtype
                if name not in fixed:
                    wide = name in delicate or name.startswith(in_float32)
                    target = torch.float32 if wide else dtype
                # A copy where it is to last: the file may be replaced while the policy runs.
                state[name] = tensor.to(device=device, dtype=target, copy=not mapped)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f'{file}: cannot be read ({error}); copy or make it anew') from None
    model.load_state_dict(state, assign=True)
    _check_layers(file, model)
    return model.eval().requires_grad_(False), manifest


def _check_files(path: Path, manifest: Manifest) -> None:
    """Every listed file is there as it was; no other could be read in its stead."""
    for name, entry in manifest.content['files'].items():
        _check_regular(path / name)
        size = (path / name).stat().st_size
        if size != entry['bytes']:
            raise ArtifactError(
                f'{path / name}: expected {entry["bytes"]} bytes, found {size}; copy it anew'
            )
        found = file_hash(path / name)
        if found != entry['sha256']:
            raise ArtifactError(
                f'{path / name}: expected SHA-256 {entry["sha256"]}, found {found}; '
                f'the file was changed, copy or make the artifact anew'
            )
    listed = {*manifest.content['files'], WEIGHTS, MANIFEST}
    for file in sorted(path.iterdir()):
        if file.suffix in READABLE and file.name not in listed:
            raise ArtifactError(
                f'{file}: expected only the files of the manifest, found this one beside them; '
                f'remove it'
            )


def _check_regular(file: Path) -> None:
    """A regular file of this directory itself; a link could lead anywhere."""
    if file.is_symlink() or not file.is_file():
        found = 'a link' if file.is_symlink() else 'something else' if file.exists() else 'none'
        raise ArtifactError(f'{file}: expected a regular file, found {found}; copy it anew')


def _empty_model(path: Path, manifest: Manifest) -> Any:
    """The network with the scheme's layers in their places, on the meta device."""
    recipe = _recipe(path, manifest)
    try:
        architecture = architecture_of(read_config(path))
        model: Any = empty_network(read_config(path))
        with torch.device('meta'):
            expected = place_empty_layers(model, recipe)
    # RuntimeError: torch's, for a size that is none; RecursionError among them.
    except (
        QuantVLAError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
        RuntimeError,
    ) as error:
        raise ArtifactError(f'{path / "config.json"}: not a network ({error})') from None
    chunk = model.noise_shape[0]
    if (architecture.kind, chunk) != (manifest.model, manifest.chunk_size):
        raise ArtifactError(
            f'{path / MANIFEST}: model: expected {architecture.kind} with chunks of '
            f'{chunk} by config.json, found {manifest.model} with '
            f'{manifest.chunk_size}; make the artifact anew'
        )
    if manifest.layers != expected:
        raise ArtifactError(
            f'{path / MANIFEST}: layout {recipe.layout.name!r}: expected {len(expected)} layers of '
            f'{manifest.model}, found {len(manifest.layers)} layers or other names; make the '
            f'artifact anew'
        )
    return model


def _recipe(path: Path, manifest: Manifest) -> Recipe:
    """The recipe in the manifest: it says how each layer is stored."""
    content = manifest.content
    try:
        recipe = parse_recipe(content['recipe']['text'], name=content['recipe']['name'])
    except CalibrationError as error:
        raise ArtifactError(
            f'{path / MANIFEST}: recipe: {error}; use the quantvla_ros that made it'
        ) from None
    found = (manifest.precision, content['layout']['name'])
    if found != (recipe.precision, recipe.layout.name):
        raise ArtifactError(
            f'{path / MANIFEST}: expected {recipe.precision} in layout {recipe.layout.name} by its '
            f'recipe, found {found[0]} in {found[1]}; make the artifact anew'
        )
    return recipe


def _fixed(model: nn.Module) -> dict[str, torch.dtype]:
    """Tensors of quantized layers whose type is part of the format, by name; not the biases."""
    return {
        f'{path}.{name}': tensor.dtype
        for path, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
        for name, tensor in module.named_buffers()
        if name != 'bias'
    }


def _check_tensors(
    path: Path,
    manifest: Manifest,
    wanted: Mapping[str, tuple[int, ...]],
    fixed: Mapping[str, torch.dtype],
) -> None:
    """Names, shapes and dtypes: what the network wants, the manifest says and the header holds."""
    file = path / WEIGHTS
    entries = manifest.content['tensors']
    if set(entries) != set(wanted):
        missing, unknown = sorted(set(wanted) - set(entries)), sorted(set(entries) - set(wanted))
        raise ArtifactError(
            f'{path / MANIFEST}: tensors: expected the {len(wanted)} of {manifest.model}, found '
            f'{len(missing)} missing ({_first(missing)}) and {len(unknown)} unknown '
            f'({_first(unknown)}); make the artifact anew'
        )
    total = 0
    for name, entry in entries.items():
        shape, dtype = tuple(entry['shape']), DTYPES.get(entry['dtype'])
        kind = fixed.get(name)
        fits = dtype is not None and (dtype == kind if kind else dtype.is_floating_point)
        if shape != wanted[name] or not fits:
            raise ArtifactError(
                f'{path / MANIFEST}: {name}: expected {list(wanted[name])} '
                f'{kind or "floating point"}, found {list(shape)} '
                f'{entry["dtype"]}; make the artifact anew'
            )
        assert dtype is not None
        total += count(shape) * dtype.itemsize
    _check_header(file, total, entries)


def _check_header(file: Path, total: int, entries: Mapping[str, Any]) -> None:
    """The weights' header against the manifest, before anything is read by it."""
    _check_regular(file)
    size = file.stat().st_size
    with file.open('rb') as opened:
        length = int.from_bytes(opened.read(8), 'little')
    if length > LARGEST_HEADER or size != 8 + length + total:
        raise ArtifactError(
            f'{file}: expected a header and {total} bytes of weights, found {size} bytes with a '
            f'header of {length}; it is cut off or not the file that was written, copy it anew'
        )
    try:
        with safe_open(file, framework='pt') as opened:
            held = set(opened.keys())
            if held != set(entries):
                other = held ^ set(entries)
                raise ArtifactError(
                    f'{file}: expected the tensors of the manifest, found {len(other)} others or '
                    f'missing ({_first(sorted(other))}); copy or make it anew'
                )
            for name, entry in entries.items():
                view = opened.get_slice(name)
                found = (view.get_dtype(), list(view.get_shape()))
                if found != (entry['dtype'], entry['shape']):
                    raise ArtifactError(
                        f'{file}: {name}: expected {entry["dtype"]} {entry["shape"]}, found '
                        f'{found[0]} {found[1]}; copy or make it anew'
                    )
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f'{file}: expected safetensors, found {error}; copy it anew') from None


def _check_values(file: Path, name: str, tensor: Tensor, expected: str) -> None:
    """A tensor's bytes are those that were written, and its numbers can be calculated with."""
    found = tensor_hash(tensor)
    if found != expected:
        raise ArtifactError(
            f'{file}: {name}: expected SHA-256 {expected}, found {found}; copy or make it anew'
        )
    if not tensor.is_floating_point():
        return
    if not torch.isfinite(tensor).all():
        raise ArtifactError(
            f'{file}: {name}: expected finite numbers, found NaN or infinity; make it anew'
        )
    if not name.endswith(('.weight_scale', '.input_scale')):
        return
    low, high = float(tensor.min()), float(tensor.max())
    # A static scale has a reciprocal; and what overflows would only be noticed in front of the arm.
    smallest = SMALLEST if name.endswith('.input_scale') else 0.0
    if not (low > 0.0 and low >= smallest and high <= LARGEST_SCALE):
        raise ArtifactError(
            f'{file}: {name}: expected positive scales from {smallest:g} to {LARGEST_SCALE:g}, '
            f'found {low:g} to {high:g}; make it anew'
        )


def _check_layers(file: Path, model: nn.Module) -> None:
    """What is in range for the format is in range for the layers: nothing reads beyond a tensor."""
    for path, layer in model.named_modules():
        if not isinstance(layer, QuantizedLinear):
            continue
        fault = layer.fault()
        if fault:
            raise ArtifactError(f'{file}: {path}.{fault}; make it anew')


def _first(names: list[str]) -> str:
    return names[0] if names else 'none'
