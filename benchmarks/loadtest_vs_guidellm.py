"""Our closed loop beside guidellm's, on one server: whether both report the same.

One ``xdlm serve stories`` in a process of its own; the clients take turns, A B A B. Both ask for
the same: 64 tokens after a prompt of 5, ends ignored, the same steps and concurrency. Only the
prompts' words differ, since guidellm makes its own.

guidellm lives in ``.venv-clients`` (``make .venv-clients/ready``).

    python -m benchmarks.loadtest_vs_guidellm --save loadtest_vs_guidellm.jsonl
    python -m benchmarks.loadtest_vs_guidellm --seconds 5 --repeats 1           # a short look
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.http_overhead import serving
from benchmarks.isolated import Record, save
from models.bundled import BUNDLED

PROMPT, TOKENS, STEPS, WARM = 5, 64, 8, 2.0
WORDS = ("cat", "dog", "bird", "fish", "boy", "girl", "bear", "tree", "car", "ball", "king")
GUIDELLM = Path(__file__).parent.parent / ".venv-clients" / "bin" / "guidellm"


def prompts() -> list[str]:
    """Openings of ``PROMPT`` tokens each."""
    tokenizer = Tokenizer.from_file(str(BUNDLED / "stories" / "tokenizer.json"))
    openings = [f"{a} {b} and {c}" for a in ("A", "The") for b in WORDS for c in WORDS]
    lengths = [len(e.ids) for e in tokenizer.encode_batch(openings)]
    return [text for text, length in zip(openings, lengths, strict=True) if length == PROMPT]


def ours(url: str, width: int, seconds: float, folder: Path) -> Record:
    """``xdlm-loadtest sweep``, read from its files."""
    command = [sys.executable, "-m", "loadtest.cli", "sweep", "--url", url, "--out", str(folder)]
    command += ["--steps", str(STEPS), "--max-tokens", str(TOKENS), "--field", "ignore_eos=true"]
    file = folder.with_suffix(".txt")
    file.write_text("\n".join(prompts()))
    command += ["--prompts", str(file), "--concurrency", str(width)]
    command += ["--duration", f"{seconds}s", "--warmup", f"{WARM}s"]
    subprocess.run([*command, "--answers", "0"], check=True, stdout=subprocess.DEVNULL)
    (cell,) = (folder / "cells").iterdir()
    *lines, last = (json.loads(line) for line in cell.read_text().splitlines())
    window = last["summary"]["seconds"]
    times = [r["ended"] - r["intended"] for r in lines if not r["warm"] and not r["failure"]]
    ended = sum(not r["failure"] and 0 <= r["ended"] <= window for r in lines)
    return {"times": times, "rate": ended / window}


def guidellms(url: str, width: int, seconds: float, folder: Path) -> Record:
    """``guidellm run``, read from its report."""
    body = f"extras.body.steps={STEPS}"
    command = [str(GUIDELLM), "run", "--disable-console", "--backend"]
    command += [
        f"kind=openai_http,target={url},model=stories,request_format=/v1/completions,{body}",
        *("--profile", f"kind=concurrent,streams={width}"),
        *("--constraint", f"kind=max_duration,seconds={WARM + seconds}"),
        *("--tokenizer", f"kind=hf_auto,model={BUNDLED / 'stories'}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={TOKENS}"),
        *("--output", "kind=json,path=report.json"),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OTEL_SDK_DISABLED": "true"}
    folder.mkdir()
    subprocess.run(
        command,
        check=True,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **offline},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (benchmark,) = json.loads((folder / "report.json").read_text())["benchmarks"]
    found = benchmark["requests"]["successful"]
    stamps = [(r["info"]["timings"]["request_start"], r["request_latency"]) for r in found]
    began = min(start for start, _ in stamps) + WARM
    times = [latency for start, latency in stamps if start >= began]
    ended = sum(began <= start + latency <= began + seconds for start, latency in stamps)
    return {"times": times, "rate": ended / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--save", help="name of a file in benchmarks/results")
    args = parser.parse_args()
    records: list[Record] = []
    with serving() as port, tempfile.TemporaryDirectory() as temporary:
        url = f"http://127.0.0.1:{port}"
        for width in args.widths:
            for repeat in range(args.repeats):
                for side, run in (("ours", ours), ("guidellm", guidellms)):
                    folder = Path(temporary) / f"{side}-{width}-{repeat}"
                    found = run(url, width, args.seconds, folder)
                    times = sorted(found.pop("times"))
                    if len(times) < 5:
                        raise RuntimeError(f"{side} had {len(times)} answers: more --seconds")
                    cuts = statistics.quantiles(times, n=20, method="inclusive")
                    records.append(
                        {"width": width, "repeat": repeat, "side": side, "requests": len(times)}
                        | {"mean_s": statistics.mean(times), "p50_s": cuts[9], "p95_s": cuts[18]}
                        | found
                        | {"load": os.getloadavg()[0]}
                    )
            tell(records, width)
    if args.save:
        save(args.save, records)


def tell(records: list[Record], width: int) -> None:
    """Means over repeats, and how far guidellm's are from ours."""
    for figure in ("mean_s", "p50_s", "p95_s", "rate"):
        a, b = (
            statistics.mean(r[figure] for r in records if (r["width"], r["side"]) == (width, side))
            for side in ("ours", "guidellm")
        )
        figures = f"ours {a:.4g}, guidellm {b:.4g}, {100 * (b / a - 1):+.1f} %"
        print(f"{width:3} at a time, {figure}: {figures}", flush=True)


if __name__ == "__main__":
    main()
