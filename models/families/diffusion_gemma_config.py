"""Sizes and choices of DiffusionGemma, read from a ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.base import check_positions
from models.errors import UnsupportedConfig
from models.families.experts import Routing
from models.families.fields import FieldReader
from models.family import Fields, Shapes

FULL, SLIDING = "full_attention", "sliding_attention"
ROPE: dict[str, dict[str, Any]] = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
"""The published rotary positions, where ``config.json`` has none."""
FIRST_EXPERT = "model.decoder.layers.0.experts.0.down_proj.weight"
"""A tensor of files that store experts one by one."""
SAID_ELSEWHERE = ("hidden_size_per_layer_input", "num_kv_shared_layers", "attn_logit_softcapping")
"""Fields of Gemma's other networks; each changes what is computed unless it is 0."""


@dataclass(frozen=True)
class LayerKind:
    """Attention of the layers of one kind.

    Attributes:
        heads: of keys and values.
        width: of a head.
        window: keys that a query of the encoder sees, its own included; None for all.
        base: of the rotary angles.
        rotated: pairs of a head that positions rotate, from the first on.
    """

    heads: int
    width: int
    window: int | None
    base: float
    rotated: int

    @property
    def position_size(self) -> int:
        """Numbers of a position's keys and values in one layer."""
        return 2 * self.heads * self.width


@dataclass(frozen=True)
class DiffusionGemmaConfig:
    """Sizes and choices that shape the network; most have the names of ``config.json``.

    Attributes:
        full: of each layer, whether it attends over everything.
        kinds: attention of sliding layers, and of those.
        routing: of the mixture of experts that every layer has.
        split_experts: files store the matrices of each expert alone, as quantised ones do
            (llm-compressor, ``modeling/gemma4.py``), and not stacked.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    final_logit_softcapping: float
    canvas_length: int
    eos_token_id: int
    full: tuple[bool, ...]
    kinds: tuple[LayerKind, LayerKind]
    routing: Routing
    split_experts: bool = False

    @property
    def mask_token_id(self) -> None:
        """There is none: noise is uniform."""
        return None


def read_config(raw: Fields, shapes: Shapes | None) -> DiffusionGemmaConfig:
    """Read a ``config.json``; see ``FamilySpec``. Images are not read, whatever it says of them."""
    whole = FieldReader(raw, shapes)
    whole.only(tie_word_embeddings=True)
    whole.refuse("audio_config")
    inner = raw.get("text_config")
    if not isinstance(inner, Mapping):
        raise UnsupportedConfig(f"text_config must be an object, got {inner!r}")
    read = FieldReader(inner, shapes)
    read.only(hidden_activation="gelu_pytorch_tanh", attention_bias=False, attention_k_eq_v=True)
    read.only(tie_word_embeddings=True, use_bidirectional_attention="vision")
    read.only(**dict.fromkeys(SAID_ELSEWHERE, 0))
    vocab_size, heads = read.size("vocab_size"), read.size("num_attention_heads")
    full = _full_layers(inner.get("layer_types"), read.layers())
    kinds = _kinds(read, inner, full)
    for kind in kinds:
        if heads % kind.heads:
            raise UnsupportedConfig(
                f"num_attention_heads = {heads} is not a multiple of {kind.heads} heads of keys"
            )
    routing = Routing(
        experts=read.size("num_experts"),
        chosen=read.size("top_k_experts"),
        width=read.size("moe_intermediate_size"),
        normalised=True,
    )
    if routing.chosen > routing.experts:
        raise UnsupportedConfig(
            f"top_k_experts = {routing.chosen} is more than num_experts = {routing.experts}"
        )
    positions = read.size("max_position_embeddings")
    check_positions("max_position_embeddings", positions)
    canvas = whole.size("canvas_length", 256)
    if canvas > positions:
        raise UnsupportedConfig(
            f"canvas_length = {canvas} is more than max_position_embeddings = {positions}"
        )
    return DiffusionGemmaConfig(
        vocab_size=vocab_size,
        hidden_size=read.size("hidden_size"),
        intermediate_size=read.size("intermediate_size"),
        num_attention_heads=heads,
        max_position_embeddings=positions,
        rms_norm_eps=read.number("rms_norm_eps", 1e-6),
        final_logit_softcapping=read.number("final_logit_softcapping", 30.0),
        canvas_length=canvas,
        eos_token_id=_first_end(inner, vocab_size),
        full=full,
        kinds=kinds,
        routing=routing,
        split_experts=shapes is not None and FIRST_EXPERT in shapes,
    )


def _first_end(inner: Fields, vocab_size: int) -> int:
    """The end token: ``eos_token_id`` may be a list, whose first this is."""
    said = inner.get("eos_token_id")
    first = said[0] if isinstance(said, list) and said else said
    return FieldReader({"eos_token_id": first}, None).token("eos_token_id", vocab_size, 1)


def _full_layers(said: Any, count: int) -> tuple[bool, ...]:
    """Of each layer, whether it attends over everything; every sixth does where nothing is said."""
    if said is None:
        said = [FULL if (i + 1) % 6 == 0 or i + 1 == count else SLIDING for i in range(count)]
    known = isinstance(said, list) and all(kind in (FULL, SLIDING) for kind in said)
    if not known or len(said) != count:
        raise UnsupportedConfig(
            f"layer_types must be {count} words, {FULL} or {SLIDING}; got {str(said)[:200]}"
        )
    if said[-1] != FULL:
        raise UnsupportedConfig(f"layer_types ends in {said[-1]}; the last must be {FULL}")
    return tuple(kind == FULL for kind in said)


def _kinds(read: FieldReader, inner: Fields, full: tuple[bool, ...]) -> tuple[LayerKind, LayerKind]:
    """Attention of both kinds of layers. Sizes of the full ones stand in ``global_head_dim`` and
    ``num_global_key_value_heads``, or in ``per_layer_config`` as far as they differ.
    """
    heads, width = read.size("num_key_value_heads"), read.size("head_dim")
    of_full: dict[str, Any] = {
        "head_dim": inner.get("global_head_dim"),
        "num_key_value_heads": inner.get("num_global_key_value_heads"),
    }
    if (by_layer := inner.get("per_layer_config")) is not None:
        of_full = {"head_dim": width, "num_key_value_heads": heads, **_of_full(by_layer, full)}
    own = FieldReader(of_full, None)
    rope = inner.get("rope_parameters") or ROPE
    if not isinstance(rope, Mapping) or not all(isinstance(rope.get(k), Mapping) for k in ROPE):
        raise UnsupportedConfig(f"rope_parameters must have {SLIDING} and {FULL}")
    window = read.size("sliding_window")
    wide, few = own.size("head_dim", 512), own.size("num_key_value_heads", heads)
    for size in (width, wide):
        if size % 2:
            raise UnsupportedConfig(f"head_dim = {size} is odd; positions rotate pairs")
    found: list[LayerKind] = []
    for name, of, kv, limit in ((SLIDING, width, heads, window), (FULL, wide, few, None)):
        said = FieldReader(rope[name], None)
        said.only(rope_type=ROPE[name]["rope_type"])
        share = said.number("partial_rotary_factor", ROPE[name].get("partial_rotary_factor", 1.0))
        if share > 1 or (name == SLIDING and share != 1):
            raise UnsupportedConfig(f"partial_rotary_factor = {share:g} of {name} is not supported")
        base = said.number("rope_theta", ROPE[name]["rope_theta"])
        found.append(LayerKind(kv, of, limit, base, int(share * of / 2)))
    return found[0], found[1]


def _of_full(by_layer: Any, full: tuple[bool, ...]) -> Fields:
    """The fields of ``per_layer_config``, which must be the same of every full layer."""
    layers = {str(i) for i, whole in enumerate(full) if whole}
    values = list(by_layer.values()) if isinstance(by_layer, Mapping) else [by_layer]
    if not values:
        return {}
    known = isinstance(by_layer, Mapping) and {str(name) for name in by_layer} == layers
    if not known or any(value != values[0] for value in values):
        raise UnsupportedConfig("per_layer_config must say the same of every full layer, no others")
    if not isinstance(values[0], Mapping) or set(values[0]) - {"head_dim", "num_key_value_heads"}:
        raise UnsupportedConfig("per_layer_config may say head_dim and num_key_value_heads alone")
    return values[0]
