"""``stories`` at temperature 0 against LLaDA's published loop, token by token.

python -m benchmarks.parity --device cuda --save gpu-parity.jsonl
python -m benchmarks.parity --device cpu
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.isolated import Record, logits_of, save, steps_of
from benchmarks.reference import llada_loop
from models.checkpoints.load import Checkpoint, find_checkpoint, load_checkpoint
from sampler import SAMPLERS, make_params

K = 0.1


def parity(device: str, prompts: int = 1000, together: int = 100) -> Iterator[Record]:
    """``stories`` at temperature 0 against the published loop on the same device, token by token;
    on a GPU also the first guesses of all positions in bf16 against those in fp32.
    """
    length, given = 64, 8
    full = load_checkpoint(find_checkpoint("stories"), device, "float32")
    mask = full.info.mask_id
    assert mask is not None
    g = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, mask, (prompts, given), generator=g).to(device)
    yield same_tokens(full, prompt, length, together)
    if device == "cpu":
        return
    half = load_checkpoint(find_checkpoint("stories"), device, "bfloat16")
    yield same_tokens(half, prompt, length, together)
    z = F.pad(prompt, (0, length), value=mask)
    exact, rounded = (
        torch.cat([logits_of(x.model)(part)[..., :mask].float() for part in z.split(together)])
        for x in (full, half)
    )
    best = rounded.topk(2).values
    ulp = torch.exp2(torch.floor(torch.log2(best[..., 0].abs())) - 7)
    differs = exact.argmax(-1) != rounded.argmax(-1)
    near = (best[..., 0] - best[..., 1]) < 2 * ulp
    record = {
        "kind": "guesses",
        "positions": differs.numel(),
        "differ": int(differs.sum()),
        "differ_beyond_2_ulp": int((differs & ~near).sum()),
        "logit_error": float((exact - rounded).abs().max() / exact.abs().max()),
    }
    print(record)
    yield record


def same_tokens(
    loaded: Checkpoint, prompts: Tensor, length: int, together: int, steps: int = 16
) -> Record:
    """Share of tokens after prompts [n, P] that equal those of the published loop."""
    vocab, mask, device = loaded.info.vocab_size, loaded.info.mask_id, str(loaded.device)
    assert mask is not None
    given = prompts.shape[1]
    params = make_params(
        steps=steps, sampler="topk", mixing_ratio=K, temperature=0.0, compat="official"
    )
    sampler = SAMPLERS["topk"].make(vocab, mask, loaded.ends)
    same = 0
    for some in prompts.split(together):
        canvases = [
            (p + [0] * length, [False] * given + [True] * length, params) for p in some.tolist()
        ]
        ours, _ = steps_of(loaded.model, sampler, canvases, device)
        theirs = llada_loop(
            logits_of(loaded.model),
            batch=len(some),
            length=length,
            block=length,
            steps=steps,
            mask_id=mask,
            mixing_ratio=K,
            temperature=0.0,
            seed=0,
            prompt=some,
            device=device,
        )
        same += int((ours.view(theirs.shape) == theirs)[:, given:].sum())
    share = same / (len(prompts) * length)
    kind = loaded.info.dtype
    print(f"{kind}: {100 * share:.3f} % of tokens as the published loop has them", flush=True)
    return {"kind": "tokens", "dtype": kind, "prompts": len(prompts), "same": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    with torch.inference_mode():
        records = list(parity(args.device))
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
