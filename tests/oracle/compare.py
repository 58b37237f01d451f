#!/usr/bin/env python3
"""Holds lapwing's logits against llama.cpp's on the same files. Run by hand, not by ./check.

usage: tests/oracle/compare.py [--lapwing BIN] [--keep FOLDER] [NAME...]

Makes small models of every architecture and option with `lapwing synth` (f32 weights, so that only the arithmetic
differs), evaluates a fixed sequence of tokens with llama-cpp-python, and lets `lapwing perplexity --kl-divergence`
compare. Prints one line for each and fails when a mean divergence is above 1e-3. With --keep the logits files are
stored as NAME.logits: those in tests/data/oracle were made so, and tests/oracle.rs checks them without llama.cpp.

Needs llama-cpp-python (pip install llama-cpp-python) and numpy.
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

LIMIT = 1e-3

# name: (shape, options, tokens). One line for each architecture and option of the decoder.
CASES = {
    "llama": ("tiny-llama:f32", "", 64),
    "llama-long-text": ("tiny-llama:f32", "", 1300),
    "llama-rope-freqs": ("tiny-llama3:f32", "", 64),
    "llama-linear": ("tiny-linear:f32", "", 64),
    "llama-yarn": ("tiny-yarn:f32", "", 64),
    "llama-biased": ("tiny-biased:f32", "", 64),
    "llama-heads": ("tiny-llama:f32", "head_dim=96,kv_heads=1,layers=1", 64),
    "llama-tied": ("tiny-llama:f32", "tied=true", 64),
    "llama-split": ("tiny-llama:f32", "", 64),
    "llama-f16": ("tiny-llama:f16", "", 64),
    "llama-bf16": ("tiny-llama:bf16", "", 64),
    "qwen2": ("tiny-qwen2:f32", "", 64),
    "qwen2-yarn": ("tiny-qwen2:f32", "rope=yarn:4,original_context=512", 64),
    "qwen2-untied": ("tiny-qwen2:f32", "tied=false", 64),
    "qwen3": ("tiny-qwen3:f32", "", 64),
    "qwen3-odd-heads": ("tiny-qwen3:f32", "head_dim=80,heads=6,kv_heads=3", 64),
    "gemma2": ("tiny-gemma2:f32", "window=16,attention_cap=2", 64),
    "gemma2-uncapped": ("tiny-gemma2:f32", "attention_cap=1000,logit_cap=1000", 64),
    "gemma3": ("tiny-gemma3:f32", "window=16", 64),
    "gemma3-long-text": ("tiny-gemma3:f32", "window=512", 1300),
    "gemma3-pattern": ("tiny-gemma3:f32", "window=16,window_every=3", 64),
    "gemma3-linear": ("tiny-gemma3:f32", "rope=linear:8,rope_base=100,window=16,window_every=2", 64),
    "gemma3-capped": ("tiny-gemma3:f32", "logit_cap=5", 64),
    "phi3": ("tiny-phi3:f32", "", 64),
    "phi3-partial-rotary": ("tiny-phi3:f32", "rope_dim=48", 64),
    "phi3-short": ("tiny-longrope:f32", "original_context=2048", 64),
    "phi3-long": ("tiny-longrope:f32", "original_context=32", 64),
}


def random_tokens(n, vocab, seed=1):
    """Ordinary tokens only: control tokens and bytes sit at the start of synthetic vocabularies."""
    state, tokens = seed, []
    for _ in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append(300 + (state >> 33) % (vocab - 300))
    return tokens


def log_softmax(row):
    row = row.astype(np.float64)
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def write_logits(path, tokens, logits):
    """The file of llama.cpp's perplexity tool (docs/formats.md), one chunk."""
    n, vocab = logits.shape
    with open(path, "wb") as f:
        f.write(b"_logits_" + struct.pack("<iii", n, vocab, 1) + np.array(tokens, "<i4").tobytes())
        for row in logits[n // 2 : n - 1]:
            low = max(row.min(), row.max() - 16)
            scale = np.float32((row.max() - low) / 65535)
            q = np.round((np.maximum(row, low) - low) / scale).clip(0, 65535).astype("<u2")
            f.write(struct.pack("<ff", scale, float(log_softmax(row)[row.argmax()] - (row.max() - low))) + q.tobytes())
            f.write(b"\0\0" * (vocab % 2))


def oracle(model, n):
    """Tokens and llama.cpp's logits after each, everything in f32 that it lets us choose."""
    import llama_cpp as lc

    llm = lc.Llama(
        str(model), n_ctx=(n + 255) // 256 * 256, n_batch=n, n_ubatch=n, logits_all=True, verbose=False,
        n_threads=2, type_k=lc.GGML_TYPE_F32, type_v=lc.GGML_TYPE_F32, flash_attn=False,
    )
    tokens = random_tokens(n, llm.n_vocab())
    # The tool evaluates a BOS in place of the first token, where the model asks for one, and stores the token.
    bos = [llm.token_bos()] if lc.llama_vocab_get_add_bos(lc.llama_model_get_vocab(llm.model)) else tokens[:1]
    llm.eval(bos + tokens[1:])
    return tokens, np.array(llm.scores[:n])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lapwing", default="target/release/lapwing")
    parser.add_argument("--keep", type=pathlib.Path, help="store the logits files in this folder")
    parser.add_argument("name", nargs="*", help="cases to run (default: all)")
    args = parser.parse_args()
    failed = 0
    print("| model | tokens | mean KLD | largest | same top | PPL | PPL of llama.cpp |\n|---|---|---|---|---|---|---|")
    for name, (shape, options, n) in CASES.items():
        if args.name and name not in args.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            model, base = pathlib.Path(folder, "model.gguf"), pathlib.Path(folder, "base")
            command = [args.lapwing, "synth", shape, str(model), "-q"]
            command += ["--with", f"vocab=512,{options}".rstrip(",")]
            command += ["--split", "3"] if "split" in name else []
            subprocess.run(command, check=True)
            if not model.exists():
                model = min(pathlib.Path(folder).glob("*.gguf"))
            write_logits(base, *oracle(model, n))
            command = [args.lapwing, "perplexity", model, "--kl-divergence", "--kl-divergence-base", base]
            command += ["--kv-type", "f32", "-o", "json", "-q"]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode != 0:
                print(f"| {name} | {n} | {run.stderr.strip()} |")
                failed += 1
                continue
            r = json.loads(run.stdout)
            bad = "" if r["kld_mean"] <= LIMIT else " TOO LARGE"
            failed += bool(bad)
            print(
                f"| {name} | {n} | {r['kld_mean']:.1e}{bad} | {r['kld_max']:.1e} | {r['same_top_pct']:.1f}% "
                f"| {r['ppl']:.2f} | {r['ppl_base']:.2f} |",
                flush=True,
            )
            if args.keep:
                args.keep.mkdir(parents=True, exist_ok=True)
                (args.keep / f"{name}.logits").write_bytes(base.read_bytes())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
