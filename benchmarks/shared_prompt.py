"""Sixteen requests at once behind one long few-shot prompt, and behind sixteen different ones.

A random SDAR of 60 M parameters with blocks of 4 is served over HTTP. Each request has 960 ids and
16 of its own, and writes 8 tokens. Where the 960 are the same, they are computed once.

    python -m benchmarks.shared_prompt --save shared_prompt.jsonl
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.isolated import Record, save
from benchmarks.serving import Server, serving
from models.bundled import BUNDLED
from models.checkpoints.random_init import write_random

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32000,
    "mask_token_id": 31999,
    "eos_token_id": 1,
    "max_position_embeddings": 1024,
    "block_size": 4,
}
TOGETHER, SHOTS, OWN, TOKENS = 16, 960, 16, 8
IDS = range(10, 4000)  # of the bundled tokenizer


def seconds_of(server: Server, prompt: list[int], seed: int) -> float:
    """Latency of one request."""
    body = {"prompt": prompt, "max_tokens": TOKENS, "seed": seed, "ignore_eos": True}
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["usage"]["completion_tokens"] == TOKENS, answer
    return time.perf_counter() - began


def round_of(server: Server, dice: random.Random, shared: bool) -> list[float]:
    """Latencies of requests that are sent together."""
    first = dice.choices(IDS, k=SHOTS)
    prompts = [
        (first if shared else dice.choices(IDS, k=SHOTS)) + dice.choices(IDS, k=OWN)
        for _ in range(TOGETHER)
    ]
    with ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(lambda one: seconds_of(server, one, 7), prompts))


def main() -> None:
    """Rounds of both kinds in turn, each with prompts that were never sent before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    records: list[Record] = []
    dice = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random(
            folder, SHAPE, family="sdar", dtype=torch.float32, tokenizer=BUNDLED / "stories"
        )
        with serving(str(folder), args.threads, XDLM_CACHE_POSITIONS="32768") as server:
            round_of(server, dice, shared=True)
            for _ in range(args.rounds):
                for shared in (True, False):
                    found = sorted(round_of(server, dice, shared))
                    records.append(
                        {
                            "shared": shared,
                            "p50_s": round(statistics.median(found), 2),
                            "p95_s": round(found[-1 - len(found) // 20], 2),
                            "load": os.getloadavg()[0],
                        }
                    )
                    print(json.dumps(records[-1]), flush=True)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
