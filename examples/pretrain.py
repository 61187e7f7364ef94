"""Pre-trains UTGRec on several domains: item tokenizer, identifiers, recommender.

The built-in catalogue, on a laptop:

    accelerate launch examples/pretrain.py --config examples/configs/small.yaml --output_dir runs/pretrained

Your own domains, each a folder with items.{parquet,jsonl,jsonl.gz,csv} and sequences.* or interactions.*, with a text
encoder as backbone:

    accelerate launch examples/pretrain.py --data data/sports data/games --output_dir runs/pretrained \
        --tokenizer.backbone sentence-transformers/all-MiniLM-L6-v2 --tokenizer.autoencoder none \
        --tokenizer.learning_rate 1e-3 --recommender.num_train_epochs 20

The paper's scale, on 16 GPUs:

    accelerate launch examples/pretrain.py --config examples/configs/paper.yaml --data data/* --output_dir runs/paper

One stage alone (`tokenizer`, `tokenize`, `recommender`), going on where a stopped training was:

    accelerate launch examples/pretrain.py --data data/sports --output_dir runs/pretrained --stage recommender --resume

Output: `tokenizer/` (network and processor), `items/<domain>/` (identifiers), `recommender/`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate.logging import get_logger
from transformers.trainer_utils import get_last_checkpoint

from trainers.arguments import parse_sections
from trainers.domains import Domain, load_domains
from trainers.item_tokenizer_trainer import ItemTokenizerTrainingArguments
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.stages import (
    NetworkArguments,
    RecommenderArguments,
)


@dataclass
class PretrainArguments:
    data: list[str] = field(metadata={"help": "Folders of domains, or a folder of such folders; or 'builtin'."})
