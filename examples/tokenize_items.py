"""Gives the items of a catalogue their semantic IDs, or new items theirs: those given before stay.

    python examples/tokenize_items.py --tokenizer runs/pretrained/tokenizer --data data/office \
        --output_dir runs/office-items
    python examples/tokenize_items.py --tokenizer runs/office/recommender --data products.csv

On several GPUs, of which each process takes a share:

    accelerate launch examples/tokenize_items.py ...

If it is stopped, the same command goes on where it was.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("tokenize")
