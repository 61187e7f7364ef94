"""Pre-trains RecBase on several domains: one tokenizer on the embeddings of their texts, and a decoder.

Small domains may get more weight:

    accelerate launch examples/pretrain_recbase.py --config recbase_small.yaml \
        --data data/sports data/games --output_dir runs/recbase --recommender.domain_temperature 2 \
        --tokenizer.text_encoder sentence-transformers/all-MiniLM-L6-v2

For domains without interactions: the tokenizer learns their texts too, and the decoder which of their items
are alike:

    accelerate launch examples/pretrain_recbase.py --config recbase_minilm.yaml \
        --data data/sports data/games --catalogues data/beauty --output_dir runs/recbase

Its 1.5 billion parameters over 8 GPUs (ZeRO-3 shards weights, gradients and optimizer; ZeRO-2 all but the weights):

    accelerate launch --config_file examples/accelerate_configs/zero3.yaml examples/pretrain_recbase.py \
        --config recbase.yaml --recommender.size large --data data --output_dir runs/recbase-large

Writes `tokenizer/`, `items/<domain>/` (semantic IDs) and `recommender/` to the output folder.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("pretrain", method="recbase")
