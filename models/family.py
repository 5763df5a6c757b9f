"""Families of networks: how each is recognised, configured, built, written and divided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.base import DenoiserModule

Fields = Mapping[str, Any]
"""Fields of a ``config.json``."""
Shapes = Mapping[str, Sequence[int]]
"""Shapes of stored tensors, by plain name."""


class FamilyConfig(Protocol):
    """The part of a network's config that every family has."""

    @property
    def vocab_size(self) -> int:
        """N, the mask included."""
        ...

    @property
    def mask_token_id(self) -> int | None:
        """Id of the mask; None for a model of uniform noise alone."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a text; None for images."""
        ...


@dataclass(frozen=True)
class ShardPlan:
    """How tensor parallelism divides a network, after Megatron-LM (arXiv:1909.08053).

    Attributes:
        columns: patterns of linear layers whose outputs are divided among the ranks.
        rows: patterns of linear layers whose inputs are divided, and whose outputs are summed.
        sizes: fields of the config that the number of ranks must divide.
        head: the output matrix, which rank 0 alone holds; it is absent where it is tied to the
            embedding.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    sizes: tuple[str, ...]
    head: str


def no_list(count: int) -> list[str] | None:
    """``FamilySpec.listed`` of a family that is not published as a list without names."""
    del count
    return None


@dataclass(frozen=True)
class FamilySpec:
    """A family of networks.

    Attributes:
        name: in ``ModelInfo`` and on the command line.
        model_type: in the ``config.json`` of published folders; the name where it is empty.
        title: in messages.
        described_by: in messages, the fields that tell it where ``model_type`` does not.
        matches: whether a ``config.json`` asks for it.
        read_config: its config, from the fields of a ``config.json`` and, where there are weights,
            their shapes. Raises ``UnsupportedConfig``, naming the field.
        build: the network of a config; on the meta device inside ``without_values``.
        sign: names of tensors that tell it where no config does; none, where none do.
        masks_only: its checkpoints are trained with masks alone, and their ``mixing_ratio`` is 0.
        defaults: values that ``generation_config.json`` need not have.
        read_defaults: our parameters of requests, from fields of ``generation_config.json``.
        sizes_in: the object of ``config.json`` that has the sizes; empty where they stand alone.
        shapes: fields of ``config.json`` of random checkpoints, by the name of the shape.
        random_config: further fields of ``config.json`` of random checkpoints.
        random_sampler: sampler in ``generation_config.json`` of random checkpoints.
        guessed_config: fields of ``config.json`` that the shapes of published weights tell.
        told_by_name: fields of ``config.json`` that the name of a repository tells.
        written_config: fields of ``config.json`` for a config; None keeps the source's.
        listed: names of the parameters of a network that has as many as are given, in the order of
            registration, in which averaged weights are published without names.
        list_lengths: in messages, how many there are.
        unlisted: derived tensors that such a list omits and named weights beside it have.
        shards: how ranks share the network; None where they cannot.
    """

    name: str
    title: str
    matches: Callable[[Fields], bool]
    read_config: Callable[[Fields, Shapes | None], FamilyConfig]
    build: Callable[[Any], DenoiserModule]
    sign: frozenset[str] = frozenset()
    model_type: str = ""
    masks_only: bool = False
    described_by: tuple[str, ...] = ()
    defaults: Fields = field(default_factory=dict)
    read_defaults: Callable[[Fields], Fields] = lambda said: said
    sizes_in: str = ""
    shapes: Mapping[str, Fields] = field(default_factory=dict)
    random_config: Fields = field(default_factory=dict)
    random_sampler: str = "ancestral"
    guessed_config: Callable[[Shapes], Fields] = lambda shapes: {}
    told_by_name: Callable[[str], Fields] = lambda name: {}
    written_config: Callable[[Any], Fields] | None = None
    listed: Callable[[int], list[str] | None] = no_list
    list_lengths: str = ""
    unlisted: tuple[str, ...] = ()
    shards: ShardPlan | None = None

    def signs(self, names: Collection[str]) -> bool:
        """Whether tensors of these names are a network's of this family."""
        return bool(self.sign) and self.sign <= set(names)

    @property
    def published_type(self) -> str:
        """``model_type`` of published folders."""
        return self.model_type or self.name
