"""Step 2: prune the teacher's 32 000 pieces to those the corpus uses; write ``tokenizer.json``.

Kept: every piece that occurs at least five times, every piece on the merge path of a kept one (or
    the
kept one could never be reached), all single characters of kept pieces, the 256 byte pieces, and
three special tokens: ``<|startoftext|>``, ``<|endoftext|>``, ``<|mdm_mask|>`` (last, as the mask
    row).
``pieces.json`` remembers which teacher row each id came from, for the student's first weights.

    python -m recipes.stories.build_tokenizer
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from models.bundled import BUNDLED
from recipes.stories import teacher as teacher_file
from recipes.stories.corpus import RECIPE, WORK, read_corpus

START, END, MASK = "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"
MIN_COUNT = 5
FIRST_PIECE = 259  # 0..2 are control pieces, 3..258 bytes


def spm(text: str) -> str:
    """SentencePiece writes a blank as U+2581."""
    return text.replace(" ", "▁")


def split_paths(pieces: list[teacher_file.Piece]) -> dict[str, tuple[str, str]]:
    """For each piece, the two pieces that BPE joins last to form it.

    Joining replays SentencePiece on the piece alone: the pair whose union has the best score first.
    """
    score = {spm(p.text): p.score for p in pieces[FIRST_PIECE:]}
    paths: dict[str, tuple[str, str]] = {}
    for piece in score:
        parts = list(piece)
        last: tuple[str, str] | None = None
        while len(parts) > 1:
            pairs = [(score.get(a + b, -1e9), -i) for i, (a, b) in enumerate(pairwise(parts))]
            best, at = max(pairs)
            if best == -1e9:
                break
            i = -at
            last = (parts[i], parts[i + 1])
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 1 and last is not None:
            paths[piece] = last
    return paths


def make_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """A byte-fallback BPE tokenizer with SentencePiece's treatment of blanks."""
    tokenizer = Tokenizer(
        BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=False, ignore_merges=False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def full_tokenizer(pieces: list[teacher_file.Piece]) -> Tokenizer:
    """The teacher's own tokenizer, unpruned (ids are the teacher's)."""
    vocab = {spm(p.text): i for i, p in enumerate(pieces)}
    for i in range(256):
        vocab[f"<0x{i:02X}>"] = 3 + i
    return make_tokenizer(vocab, ranked_merges(pieces, set(vocab)))


def ranked_merges(pieces: list[teacher_file.Piece], kept: set[str]) -> list[tuple[str, str]]:
    """All pairs of kept pieces whose union is kept, best score of the union first."""
    merges = []
    for p in pieces[FIRST_PIECE:]:
        text = spm(p.text)
        if text not in kept:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in kept and right in kept:
                merges.append((p.score, left, right))
    merges.sort(key=lambda m: -m[0])
    return [(left, right) for _, left, right in merges]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED / "stories")
    out: Path = parser.parse_args().out

    pieces = teacher_file.load(teacher_file.download(WORK / "teacher")).pieces
    full = full_tokenizer(pieces)
    counts: Counter[int] = Counter()
    for row in read_corpus():
        counts.update(full.encode(row.text).ids)

    paths = split_paths(pieces)
    kept: set[str] = set()
    pending = [
        spm(pieces[i].text) for i, n in counts.items() if n >= MIN_COUNT and i >= FIRST_PIECE
    ]
    while pending:
        piece = pending.pop()
        if piece not in kept:
            kept.add(piece)
            pending.extend(paths.get(piece, ()))
    rows = [i for i, p in enumerate(pieces) if i >= FIRST_PIECE and spm(p.text) in kept]

    vocab = {START: 0, END: 1}
    source = [teacher_file.BOS, teacher_file.BOS]  # the row of the teacher each id starts from
    for i in range(256):
        vocab[f"<0x{i:02X}>"] = len(vocab)
        source.append(3 + i)
    for i in rows:
        vocab[spm(pieces[i].text)] = len(vocab)
        source.append(i)

    tokenizer = make_tokenizer(vocab, ranked_merges(pieces, kept))
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (START, END, MASK)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A",
        pair=f"{START} $A $B",
        special_tokens=[(START, vocab[START])],
    )
    assert tokenizer.token_to_id(MASK) == len(source), "the mask row comes last"
    tokenizer.save(str(out / "tokenizer.json"))
    (RECIPE / "pieces.json").write_text(json.dumps(source))
    print(
        f"{len(source) + 1} ids: {len(rows)} pieces, 256 bytes, 3 special -> {out}/tokenizer.json"
    )


if __name__ == "__main__":
    main()
