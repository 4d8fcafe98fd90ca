"""Filling a decoder: from a checkpoint, mapped and copied once into the fused parameters, or with
random weights where only the shape matters."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prelude.models.checkpoint import Target, check_names, ignored, opened, targets, weight_files
from prelude.models.decoder import Decoder
from prelude.models.linear import num_inputs, store
from prelude.models.random_weights import RandomWeights
from prelude.models.spec import ModelSpec

Progress = Callable[[str, float], None]

logger = logging.getLogger(__name__)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load_decoder(
    folder: Path,
    spec: ModelSpec,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    weights: torch.dtype | None = None,
) -> Decoder:
    """Read a Hugging Face folder's safetensors into a new decoder in ``dtype`` on ``device``, with
    matrices of type ``weights`` if given; int8 is rounded to tensor by tensor.

    ``progress`` gets ("loading weights", fraction). Raises ``ValueError`` naming files or tensors
    that are missing, unexpected, damaged or of the wrong shape or type.
    """
    wanted = targets(spec)
    files = weight_files(folder)
    check_names(files, wanted, spec.tie_embeddings)
    decoder = Decoder(spec, dtype, device, weights)
    parameters = dict(decoder.named_parameters())
    done, total = 0, spec.num_params
    progress("loading weights", 0.0)
    for path in files:
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if not ignored(name, spec.tie_embeddings):
                    done += _fill(parameters, wanted[name], _read(file, name))
                    progress("loading weights", done / total)
    _check_tied_head(decoder, files)
    logger.info("loaded %d parameters of %s from %s", total, spec.architecture, folder)
    return decoder


def random_decoder(
    spec: ModelSpec,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    scale: float = 0.02,
    weights: torch.dtype | None = None,
) -> Decoder:
    """A decoder with normal weights of standard deviation ``scale``; norm weights are one.

    The same seed gives the same weights on the same kind of device; int8 ``weights`` are those of
    ``dtype``, rounded.
    """
    decoder = Decoder(spec, dtype, device, weights)
    numbers = RandomWeights(seed, scale, spec.num_params, device)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("norm"):
                parameter.fill_(1.0)
            elif parameter.dtype is torch.int8:
                values = torch.empty(len(parameter), num_inputs(parameter), device=device)
                numbers.fill(values)
                store(parameter.data, values)
            else:
                numbers.fill(parameter.data)
    return decoder


def _read(file: Any, name: str) -> Tensor:
    tensor: Tensor = file.get_tensor(name)
    if tensor.dtype not in _DTYPES:
        raise ValueError(
            f"tensor {name} has type {tensor.dtype}; supported: float32, bfloat16, float16 "
            "(quantised checkpoints are not)"
        )
    return tensor


def _fill(parameters: dict[str, torch.nn.Parameter], target: Target, tensor: Tensor) -> int:
    """Copy one tensor to its rows, converting on the way; returns how many numbers it had."""
    rows = parameters[target.parameter].data[target.first : target.first + target.shape[0]]
    store(rows, tensor)
    return tensor.numel()


def _check_tied_head(decoder: Decoder, files: list[Path]) -> None:
    """A tied checkpoint may repeat the embedding as its head, but not have another one."""
    if not decoder.spec.tie_embeddings:
        return
    for path in files:
        with opened(path) as file:
            if "lm_head.weight" not in file.keys():  # noqa: SIM118 (not a dict)
                continue
            head = torch.empty_like(decoder.embedding.data)
            store(head, _read(file, "lm_head.weight"))
            if not torch.equal(head, decoder.embedding.data):
                raise ValueError(
                    f"{path}: lm_head.weight differs from the embedding although config.json says "
                    "tie_word_embeddings=true; set it to false"
                )
