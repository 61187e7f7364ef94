"""Fine-tunes a pre-trained UTGRec on a new domain, or trains one from scratch on it, and evaluates it.

    accelerate launch examples/finetune.py --config small.yaml --pretrained runs/pretrained \
        --data builtin --output_dir runs/office

From scratch, for comparison (network and recommender are described by the configuration):

    accelerate launch examples/finetune.py --config small.yaml --data builtin \
        --output_dir runs/office-scratch

The paper's ablations: `--tokenizer_mode frozen` (no tokenizer fine-tuning), `--tokenizer_mode full` (codebook matrices
too), `--new_recommender` (no recommender pre-training), no `--pretrained` (no pre-training at all). Those of the
network are the flags `--tokenizer.codebook_structure residual`, `--tokenizer.alignment_weight 0` and
`--tokenizer.co_reconstruction_weight 0` of pretrain.py: a pre-trained network keeps its losses and architecture.

Few-shot: `--train_users 0.01` trains on a hundredth of the users, drawn by the seed, `--train_users 0` not at all (the
pre-trained models as they are). Validation and test stay those of all users.

Writes `tokenizer/` (network, processor, the domain's item index), `recommender/` (with an index-only copy of the
tokenizer) and `results.json` to the output folder.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("finetune")
