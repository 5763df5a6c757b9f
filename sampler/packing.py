"""Arrays of several requests end to end: joining and compacting them, ranking within a group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fusion.choice import Draw, Pairs, agrees, launch, ordinary

SPAN, WALK = 1024, 4096
"""Positions of which a program writes the marked ones, and of which it counts marks at once."""
PLACED, OTHERS = 32, 128
"""Rows whose places a program finds, and rows that it compares them with at once."""
_FLAGS, _SCORES = frozenset({torch.bool}), frozenset({torch.float32, torch.float64})


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other; rows of tables are filled up with zeros to the widest."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].dim() == 2:
        width = max(part.shape[1] for part in parts)
        parts = [F.pad(part, (0, width - part.shape[1])) for part in parts]
    return torch.cat(list(parts))


def marked(marks: Bool[Tensor, " T"], room: int) -> Int[Tensor, " N"]:
    """The marked positions in order, T after the last; ``room`` is at least their number."""
    if ordinary(marks) and agrees("marked", marks, (), _compare_marked, _FLAGS):
        return _marked_kernel(marks, room)
    return _marked_plain(marks, room)


def _marked_plain(marks: Tensor, room: int) -> Tensor:
    count = marks.numel()
    upto = marks.cumsum(0)
    place = torch.where(marks, upto - 1, room)  # positions without a mark share one more place
    found = upto.new_full((room + 1,), count)
    return found.scatter_(0, place, torch.arange(count, device=marks.device))[:room]


def _marked_kernel(marks: Tensor, room: int) -> Tensor:
    count = marks.numel()
    found = marks.new_empty(room, dtype=torch.int64)
    launch(
        "marked",
        (-(-max(count, room) // SPAN),),
        marks.device,
        marks.contiguous(),
        found,
        count,
        room,
        SPAN=SPAN,
        WALK=WALK,
        num_warps=4,
    )
    return found


def _compare_marked(draw: Draw) -> Pairs:
    """Marks of more positions than a program walks over at once: none, all, some, and few."""
    some = draw(WALK + SPAN + 3, dtype=torch.float32)
    cases = [(some > limit, room) for limit, room in ((9, 7), (-9, len(some)), (0, len(some)))]
    cases += [(some[:5] > 0, 2 * SPAN)]
    return [(_marked_kernel(*case), _marked_plain(*case)) for case in cases]


def places(
    score: Float[Tensor, " R"], group: Int[Tensor, " R"], groups: int
) -> tuple[Int[Tensor, " R"], Int[Tensor, " G"]]:
    """The place of each row in its group by score, highest first, ties to the earlier row.

    Args:
        score: of each row.
        group: which each row belongs to, 0 to G - 1.
        groups: their number G.

    Returns:
        (place of each row from 0, number of rows of each group).
    """
    if ordinary(score, group) and agrees("places", score, (), _compare_places, _SCORES):
        return _places_kernel(score, group, groups)
    return _places_plain(score, group, groups)


def _places_plain(score: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    by_score = score.argsort(descending=True, stable=True)
    of, within = group[by_score].sort(stable=True)
    count = torch.zeros(groups, dtype=torch.int64, device=group.device)
    count.index_add_(0, group, torch.ones_like(group))
    first = count.cumsum(0) - count
    place = torch.arange(len(group), device=group.device) - first[of]
    return torch.empty_like(place).scatter_(0, by_score[within], place), count


def _places_kernel(score: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    place, count = torch.empty_like(group), group.new_zeros(groups)
    launch(
        "places",
        (-(-len(score) // PLACED),),
        score.device,
        score.contiguous(),
        group.contiguous(),
        place,
        count,
        len(score),
        ROWS=PLACED,
        OTHERS=OTHERS,
        num_warps=8,
    )
    return place, count


def _compare_places(draw: Draw) -> Pairs:
    """Scores with ties and some that are no numbers, of groups of which one is empty."""
    score = draw(2 * OTHERS + 3, dtype=torch.float32).mul(3).round()
    group = draw(len(score), dtype=torch.float32).abs().mul(2).long().clamp(max=4)
    score = score.masked_fill(score.abs() == 4, torch.nan).to(draw.dtype)
    kernel, plain = (f(score, group, 6) for f in (_places_kernel, _places_plain))
    return zip(kernel, plain, strict=True)


def best_of_each(
    score: Float[Tensor, " R"], group: Int[Tensor, " R"], count: Int[Tensor, " G"]
) -> tuple[Bool[Tensor, " R"], Int[Tensor, " G"]]:
    """The ``count`` highest-scoring rows of each group, ties to the earlier row; rows of group G
    take no part.

    Returns:
        (which rows, how many of each group). A group with fewer rows gives them all.
    """
    limit = F.pad(count.clamp(min=0), (0, 1))
    place, found = places(score, group, limit.numel())
    return place < limit[group], torch.minimum(found, limit)[:-1]


def best_within(
    score: Float[Tensor, " R"],
    group: Int[Tensor, " R"],
    position: Int[Tensor, " R"],
    distance: Int[Tensor, " R"],
    farthest: int,
) -> Bool[Tensor, " R"]:
    """Rows that no row of their group within a distance of them exceeds.

    Args:
        score, group: of the rows.
        position: of the rows, ascending.
        distance: positions to each side that a row is compared with.
        farthest: the greatest distance there may be.
    """
    index = torch.arange(len(score), device=score.device)[:, None]
    other = index + torch.arange(-farthest, farthest + 1, device=score.device)
    inside = (other >= 0) & (other < len(score))
    other = other.clamp(0, max(len(score) - 1, 0))
    near = (position[other] - position[:, None]).abs() <= distance[:, None]
    exceeds = (group[other] == group[:, None]) & (score[other] > score[:, None])
    return ~(inside & near & exceeds).any(1)


def running_sums(
    values: Float[Tensor, " R"],
    group: Int[Tensor, " R"],
    place: Int[Tensor, " R"],
    groups: int,
    longest: int,
) -> Float[Tensor, " R"]:
    """For each row, the sum of the values of its group up to its place, its own included.

    Each group is summed by itself, so its sums have the same bits whoever is beside it.

    Args:
        values: of the rows.
        group: of each row, 0 to G - 1.
        place: in its group, from 0.
        groups: their number G.
        longest: rows of a group at most; rows of the last group may be more, and get any sum.
    """
    at = group * longest + place.clamp(max=longest - 1)
    table = values.new_zeros(groups * longest).index_copy_(0, at, values)
    return table.view(groups, longest).cumsum(1).view(-1)[at]
