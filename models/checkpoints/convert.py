"""Published checkpoints in other forms, made into a folder that ``checkpoint.load`` opens.

Weights pass through memory a shard at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from models import registry
from models.checkpoints import formats, weights
from models.checkpoints.adapter import read_adapter
from models.checkpoints.describe import described_decoder
from models.checkpoints.load import inspect_checkpoint
from models.checkpoints.meta_init import without_values
from models.errors import CheckpointError, UnsupportedConfig
from models.files import in_a_line
from models.hub.names import name_of
from models.images import vq_decoder
from models.images.vq_decoder import VQConfig, VQDecoder
from models.interface import ModelInfo
from models.progress import SILENT, Progress, Work


def convert(
    source: Path,
    folder: Path,
    *,
    mixing_ratio: float | None = None,
    raw: bool = False,
    config: Mapping[str, Any] | None = None,
    decoder: Path | None = None,
    adapter: Path | None = None,
    progress: Progress = SILENT,
) -> ModelInfo:
    """Write a source as a checkpoint folder, whole or not at all.

    Args:
        source: a folder or a file, in any form that ``models.checkpoints.formats`` knows.
        folder: where to; must not be there, or be empty.
        mixing_ratio: k of the noise that the model was trained with, 0 to 1; needed where the
            source does not say it.
        raw: take the trained weights of a Lightning checkpoint, not their average.
        config: fields of ``config.json`` that the source does not say, or says wrongly.
        decoder: the published tokenizer of the images that it makes: LlamaGen's.
        adapter: folder of a LoRA adapter that is added to the weights, in the type they have.
        progress: observes it, by tensors.

    Returns:
        facts of what was written.

    Raises:
        CheckpointError: in one line: what is damaged, missing, contradictory or not supported.
    """
    with in_a_line(source):
        return _convert(
            source, folder.absolute(), mixing_ratio, raw, config or {}, decoder, adapter, progress
        )


def _convert(
    source: Path,
    folder: Path,
    mixing_ratio: float | None,
    raw: bool,
    config: Mapping[str, Any],
    decoder: Path | None,
    adapter: Path | None,
    progress: Progress,
) -> ModelInfo:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise CheckpointError(f"{folder} is not a folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty")
    with formats.opened(source, raw) as found:
        shapes = {name: stored.shape for name, stored in found.tensors.items()}
        fields = {**found.config, **config}
        try:
            if (family := registry.family_of(fields)) is not None:
                fields = {**family.guessed_config(shapes), **fields}
            fields = registry.named_config(fields, name_of(source))
            spec, sizes, network = registry.build(fields, shapes)
        except UnsupportedConfig as error:
            raise CheckpointError(f"{source}: {error}") from None
        weights.compare(source, shapes, network)
        added = None if adapter is None else read_adapter(adapter, network)
        if spec.written_config is not None:
            fields = {
                "model_type": spec.published_type,
                **spec.written_config(sizes),
                **{name: fields[name] for name in ("raw_codebook",) if name in fields},
            }
        defaults: dict[str, Any] = {"sampler": "ancestral"}
        if spec.masks_only or network.canvas_length is not None:
            defaults = {name: spec.defaults[name] for name in ("sampler", "mixing_ratio")}
        defaults |= {name: value for name, value in found.defaults.items() if value is not None}
        ratio = defaults.get("mixing_ratio") if mixing_ratio is None else mixing_ratio
        defaults["mixing_ratio"] = _ratio(source, ratio)

        def read() -> Iterator[tuple[str, Tensor]]:
            """Every tensor of the network, in its order; those that are derived are only read."""
            derived = network.derived()
            for name in (*derived, *network.stored()):
                if name in found.tensors:
                    tensor = found.tensors[name].read()
                    if added is not None:
                        tensor = added.added(name, tensor).to(tensor.dtype)
                    tensor = weights.checked(source, name, tensor, network)
                    progress.advance()
                    if name not in derived:
                        yield name, tensor

        with _whole(folder, source) as part:
            total = sum(not network.passed_over(name) for name in found.tensors)
            with progress.of(Work(name_of(source), "converting", "converted", total, "tensors")):
                weights.write(read(), part)
            _write_json(part / "config.json", fields)
            _write_json(part / "generation_config.json", defaults)
            for path in found.companions:
                shutil.copyfile(path, part / path.name)
            if decoder is not None:
                _write_decoder(decoder, part)
            info, _ = inspect_checkpoint(part)
            if (part / vq_decoder.FILE).is_file():
                _check_decoder(part, info)
    return inspect_checkpoint(folder)[0]


def _write_decoder(source: Path, folder: Path) -> None:
    """The decoder of a published tokenizer, without what makes tokens of images."""
    with formats.opened_decoder(source) as found:
        shapes = {name: stored.shape for name, stored in found.items()}
        try:
            with without_values():
                network = VQDecoder(VQConfig.stored(shapes))
        except UnsupportedConfig as error:
            raise CheckpointError(f"{source}: {error}") from None
        weights.compare(source, shapes, network)
        read = ((n, weights.checked(source, n, t.read(), network)) for n, t in found.items())
        weights.write(read, folder, name=vq_decoder.FILE)


def _check_decoder(folder: Path, info: ModelInfo) -> None:
    if info.image is None or info.image.tokens != "vq":
        raise CheckpointError("a decoder of image tokens, but a model that makes none")
    described_decoder(folder / vq_decoder.FILE, info.image)


@contextmanager
def _whole(folder: Path, source: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its name when all went well, and goes if not. What
    is wrong with it is said of the source, which can still be looked at.
    """
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror or error}") from None
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(part), str(source))) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _ratio(source: Path, value: object) -> float:
    if value is None:
        raise CheckpointError(f"{source}: mixing_ratio is not said in it; give --mixing-ratio")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise CheckpointError(f"{source}: mixing_ratio must lie between 0 and 1, got {value!r}")
    return float(value)
