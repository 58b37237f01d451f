#!/usr/bin/env python3
"""Answers under JSON schemas, held against Python's jsonschema.

usage: tests/oracle/schemas.py MODEL [--lapwing BIN] [--prompts N] [--predict N]

Asks every prompt of tests/data/schemas.json (or the first N) under every schema there, at the usual temperature and
with a room of --predict tokens, which cuts many answers off unless they are brought to an end in time. Every answer
must be JSON on one line that jsonschema accepts; an answer that was cut is none. Prints one line for each schema, and
fails when one answer of all is wrong.

Needs the Python package jsonschema. tests/program/schemas.rs runs a part of it.
"""
import argparse
import json
import pathlib
import subprocess
import sys

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("model")
    parser.add_argument("--lapwing", default=ROOT / "target/release/lapwing")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--predict", type=int, default=160)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target"))
    args = parser.parse_args()
    data = json.loads((ROOT / "tests/data/schemas.json").read_text())
    prompts = data["prompts"][: args.prompts]
    wrong = total = 0
    for name, schema in data["schemas"].items():
        file = args.work / f"schema-{name}.json"
        file.write_text(json.dumps(schema))
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        tokens, ended, good = 0, 0, 0
        for seed, prompt in enumerate(prompts):
            command = [args.lapwing, "run", args.model, "-p", prompt, "--json-schema", file, "-o", "json",
                       "-n", str(args.predict), "--seed", str(seed)]
            ran = subprocess.run(command, capture_output=True, text=True)
            total += 1
            try:
                answer = json.loads(ran.stdout)
                value = json.loads(answer["text"])
                validator.validate(value)
                assert answer["stop"] == "eos" and "\n" not in answer["text"], answer["stop"]
            except (ValueError, AssertionError, jsonschema.ValidationError) as error:
                wrong += 1
                print(f"{name}: {prompt!r}: {ran.stdout}{ran.stderr}\n  {type(error).__name__}: {error}")
                continue
            good += 1
            tokens += answer["n_gen"]
            ended += answer["n_gen"] > args.predict - 8
        print(f"{name}: {good} of {len(prompts)} valid, {tokens / max(good, 1):.0f} tokens on average, "
              f"{ended} at the limit", flush=True)
        file.unlink()
    print(f"{total - wrong} of {total} answers are valid")
    sys.exit(1 if wrong else 0)


main()
