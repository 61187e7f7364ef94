"""Pre-trains UTGRec on several domains: item tokenizer, semantic IDs, recommender.

The built-in catalogue, on a laptop:

    accelerate launch examples/pretrain.py --config small.yaml --data builtin \
        --output_dir runs/pretrained

Your own domains, each a folder with items.{parquet,jsonl,jsonl.gz,csv} and sequences.* or interactions.*, with a text
encoder as backbone:

    accelerate launch examples/pretrain.py --data data/sports data/games --output_dir runs/pretrained \
        --tokenizer.backbone sentence-transformers/all-MiniLM-L6-v2 --tokenizer.autoencoder none

The paper's scale, on 16 GPUs:

    accelerate launch examples/pretrain.py --config paper.yaml --data data --output_dir runs/paper

To the Hub, during the training and at its end, as org/office-tokenizer and org/office-recommender:

    accelerate launch examples/pretrain.py --data data/sports --output_dir runs/pretrained \
        --push_to_hub --hub_model_id org/office

One stage alone (tokenizer, tokenize, recommender), going on where a stopped training was:

    accelerate launch examples/pretrain.py --data data/sports --output_dir runs/pretrained --stage recommender --resume

Writes `tokenizer/` (network and processor), `items/<domain>/` (semantic IDs) and `recommender/` to the output folder.
RecBase: pretrain_recbase.py.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("pretrain")
