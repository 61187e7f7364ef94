r"""Trains a baseline on a data folder, saves it, and evaluates it beside what needs no training.

    # from interactions alone
    python examples/train_baseline.py --model sasrec --data data/beauty --output_dir runs/beauty-sasrec
    # semantic IDs of the items' texts and a T5 on them; or a decoder: tiger-decoder
    python examples/train_baseline.py --model tiger --data data/beauty --output_dir runs/beauty-tiger \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2
    # with embeddings that embed_items.py made, half an hour at most, and a push to the Hub
    python examples/train_baseline.py --model letter --embeddings runs/beauty-texts --data data/beauty --minutes 30 \
        --output_dir runs/beauty-letter --push_to_hub --hub_model_id org/beauty-letter
    # after an interruption: every stage goes on from its last checkpoint
    python examples/train_baseline.py --model tiger --embeddings runs/beauty-texts --data data/beauty \
        --output_dir runs/beauty-tiger --resume

Settings are those of the packaged configuration `baseline`, unless --config gives others: published sizes, and the
epoch that is best on the validation items. --sequential.<flag> sets SASRec, GRU4Rec, BERT4Rec, FMLP-Rec, BSARec and
HSTU; --tokenizer.<flag> an item tokenizer, --recommender.<flag> the recommender on its semantic IDs. LETTER's
collaborative embeddings are those of a SASRec that sees the training part alone; they stay in the output folder.

Writes `recommender/` (for a generative one with the index of its items), `tokenizer/` for semantic IDs, and
`results.json`: the model, with every setting that differs from the published one, popularity and item transitions, and
with embeddings the nearest items, on the test items.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("train-baseline")
