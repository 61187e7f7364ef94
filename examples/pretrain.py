"""Pre-trains UTGRec, or RecBase, on several domains: item tokenizer, identifiers, recommender.

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

RecBase: one tokenizer on the embeddings of all domains' texts, and a decoder; small domains with more weight:

    accelerate launch examples/pretrain.py --model recbase --config recbase_small.yaml \
        --data data/sports data/games --output_dir runs/recbase --recommender.domain_temperature 2 \
        --tokenizer.text_encoder sentence-transformers/all-MiniLM-L6-v2

For domains whose interactions nobody has: the tokenizer learns their texts too, and the decoder which of their items
are alike:

    accelerate launch examples/pretrain.py --config recbase_minilm.yaml \
        --data data/sports data/games --catalogues data/beauty --output_dir runs/recbase

Its 1.5 billion parameters over 8 GPUs (ZeRO-3 shards weights, gradients and optimizer; ZeRO-2 all but the weights):

    accelerate launch --config_file examples/accelerate_configs/zero3.yaml examples/pretrain.py --model recbase \
        --config recbase.yaml --recommender.size large --data data --output_dir runs/recbase-large

Writes `tokenizer/` (network and processor), `items/<domain>/` (identifiers) and `recommender/` to the output folder.
"""

from trainers.commands.pretrain import main

if __name__ == "__main__":
    main()
