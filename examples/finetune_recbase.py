"""Fine-tunes a pre-trained RecBase on a new domain, or trains one from scratch on it, and evaluates it.

Its item tokenizer stays as it is for every domain: it gives the domain's items semantic IDs without training,
unless items/<domain>/ of the pre-trained folder has them.

    accelerate launch examples/finetune_recbase.py --config recbase_small.yaml --pretrained runs/recbase \
        --data data/beauty --output_dir runs/recbase-beauty

Few-shot: `--train_users 0.01`, and `--train_users 0` for the pre-trained recommender as it is. Writes
`items/<domain>/` (semantic IDs), `recommender/` and `results.json` to the output folder.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("finetune", method="recbase")
