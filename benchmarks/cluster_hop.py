"""Overhead of a cluster over a single server: Ray's proxy, the ingress, and Ray's calls.

``xdlm serve`` and ``xdlm cluster --replicas 1`` run side by side on loopback, each network on one
thread; the same seeded requests go to both in turn, one at a time. The overhead of an answer is its
duration less the time that its engine reports. The lag of a streamed event is its time of
arrival since the request was sent, less its ``elapsed_ms``. Needs the extra ``[ray]``.

    python -m benchmarks.cluster_hop --save cluster_hop.jsonl    # about six minutes
    python -m benchmarks.cluster_hop --pairs 10                  # a short look
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.isolated import Record, save
from benchmarks.serving import serving
from loadtest.sse import Decoder

BODY = {"prompt": "Once upon a time", "max_tokens": 64, "steps": 16}
WARM = 5
SIDES = ("single", "cluster")


@contextmanager
def cluster(port: int) -> Iterator[None]:
    """One replica on Ray Serve, in processes of its own."""
    xdlm = str(Path(sys.executable).with_name("xdlm"))
    process = subprocess.Popen(
        [xdlm, "cluster", "stories", "--replicas", "1", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "XDLM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if "Listening" in line:
                yield
                return
        raise RuntimeError("the cluster did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def whole(connection: http.client.HTTPConnection, seed: int) -> tuple[Record, object]:
    """Duration of an answer, its overhead over the engine's time, and its text."""
    began = time.perf_counter()
    answer = json.load(asked(connection, "/v1/completions", seed))
    took = time.perf_counter() - began
    spent = answer["usage"]["diffusion"]
    engine = (spent["queue_ms"] + spent["denoise_ms"]) / 1e3
    return {"took_s": took, "beside_s": took - engine}, answer["choices"][0]["text"]


def streamed(connection: http.client.HTTPConnection, seed: int) -> tuple[Record, object]:
    """Median seconds by which the events of a stream lag, and the text at its end."""
    began = time.perf_counter()
    lags, text = [], None
    decoder = Decoder()
    for line in asked(connection, "/v1/diffusion/trajectories", seed):
        for event in decoder.feed(line):
            arrived = time.perf_counter() - began
            record = json.loads(event.data)
            if "elapsed_ms" in record:
                lags.append(arrived - record["elapsed_ms"] / 1e3)
            if "choices" in record:
                text = record["choices"][0].get("text", text)
    took = time.perf_counter() - began
    return {"took_s": took, "lag_s": statistics.median(lags), "events": len(lags)}, text


def asked(connection: http.client.HTTPConnection, path: str, seed: int) -> http.client.HTTPResponse:
    """An answer that has begun."""
    body = json.dumps({**BODY, "seed": seed})
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read()!r}")
    return response


def measure(pairs: int, ports: dict[str, int]) -> list[Record]:
    """Both sides in turn; they take turns at being first, and say the same."""
    connections = {s: http.client.HTTPConnection("127.0.0.1", p) for s, p in ports.items()}
    records: list[Record] = []
    for seed in range(pairs + WARM):
        for kind, way in (("whole", whole), ("stream", streamed)):
            record: Record = {"kind": kind, "pair": seed, "load": os.getloadavg()[0]}
            texts = []
            for side in SIDES if seed % 2 else reversed(SIDES):
                spent, text = way(connections[side], seed)
                record[side] = spent
                texts.append(text)
            if texts[0] is None or texts[0] != texts[1]:
                raise RuntimeError("the two sides wrote different texts")
            if seed >= WARM:
                records.append(record)
    return records


def report(records: list[Record]) -> None:
    """Medians and quartiles of what is added."""
    for kind, field, what in (
        ("whole", "beside_s", "to a whole answer"),
        ("stream", "lag_s", "until an event of a stream arrives"),
    ):
        chosen = [r for r in records if r["kind"] == kind]
        added = [1e3 * (r["cluster"][field] - r["single"][field]) for r in chosen]
        low, middle, high = statistics.quantiles(added, n=4)
        single = 1e3 * statistics.median(r["single"][field] for r in chosen)
        print(
            f"the cluster adds {middle:.2f} ms (quartiles {low:.2f}, {high:.2f}) {what}, to the "
            f"single server's {single:.2f} ms; {len(chosen)} pairs"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--port", type=int, default=8971, help="of the cluster")
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    with serving("stories") as single, cluster(args.port):
        records = measure(args.pairs, {"single": single.port, "cluster": args.port})
    report(records)
    if args.save:
        save(args.save, records)


if __name__ == "__main__":
    main()
