"""The whole of UTGRec on the built-in catalogue: what `make demo` runs.

Pre-trains item tokenizer and recommender on three domains, fine-tunes both on a fourth, trains the same from scratch
on it, evaluates them beside popularity and item transitions, loads the result back and recommends.

    python examples/demo.py --output_dir runs/demo --seeds 1

Writes `results.json` (a row for each model and seed) to the output folder, and for each seed what pretrain.py and
finetune.py write.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("demo")
