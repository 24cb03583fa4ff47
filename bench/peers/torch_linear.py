# PyTorch's torch.nn.functional.linear at the bfloat16 shapes of ../suites/linear.ts, one JSON line a case with the
# bench's keys and `peer`. Each case is a CUDA graph of several calls on the same random buffers, timed between two events
# over and over; `ms` is the median a call. Ours are timed with a wait for the device around each sample of many calls.
#
#   python3 torch_linear.py [--filter TEXT] [--json FILE]
import argparse
import datetime
import json
import statistics
import sys

import torch

WEIGHTS = [
    (768, 3072),
    (1536, 80),
    (48, 1536),
    (1536, 768),
    (768, 50280),
    (2560, 10240),
    (5120, 192),
    (160, 5120),
    (5120, 2560),
    (2560, 50280),
]
SHAPES = [(m, k, n) for m in (1, 16, 512, 2048) for k, n in WEIGHTS] + [(4096, 4096, 4096)]
SAMPLES = 25
SAMPLE_US = 200  # about what a graph should take


def timed(replay, stream):
    """Milliseconds that the device takes for one replay."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record(stream)
    replay()
    end.record(stream)
    end.synchronize()
    return begin.elapsed_time(end)


def measure(m, k, n, stream):
    x = torch.empty(m, k, device="cuda").uniform_(-1, 1).bfloat16()
    weight = torch.empty(n, k, device="cuda").uniform_(-1, 1).bfloat16()
    call = lambda: torch.nn.functional.linear(x, weight)
    for _ in range(3):
        call()
    repeats = max(3, min(50, round(SAMPLE_US / (1e3 * timed(call, stream)))))
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(repeats):
            call()
    for _ in range(3):
        graph.replay()
    times = sorted(timed(graph.replay, stream) / repeats for _ in range(SAMPLES))
    ms = statistics.median(times)
    quarter, _, three_quarters = statistics.quantiles(times, n=4)
    digits = lambda value, count=4: float(f"{value:.{count}g}")
    return {
        "op": "linear",
        "pass": "forward",
        "device": "cuda:0",
        "dtype": "bfloat16",
        "M": m,
        "K": k,
        "N": n,
        "ms": digits(ms),
        "ms_min": digits(times[0]),
        "spread": digits((three_quarters - quarter) / 2 / ms, 2),
        "samples": SAMPLES,
        "repeats": repeats,
        "gb_s": digits(2 * (m * k + n * k + m * n) / ms / 1e6),
        "tflops": digits(2 * m * k * n / ms / 1e9),
        "peer": "torch",
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--filter", default="", help="only cases with this in their words, e.g. 'M=512'")
    parser.add_argument("--json", help="a file for the lines (standard output)")
    options = parser.parse_args()
    out = open(options.json, "w") if options.json else sys.stdout
    record = lambda value: print(json.dumps(value, separators=(",", ":")), file=out, flush=True)
    record(
        {
            "case": "machine",
            "device": "cuda:0",
            "gpu": torch.cuda.get_device_name(0),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    )
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        for m, k, n in SHAPES:
            if options.filter in f"linear M={m} K={k} N={n} dtype=bfloat16":
                record(measure(m, k, n, stream))


if __name__ == "__main__":
    main()
