"""Evaluates a recommender on a data folder: leave-one-out, full ranking over the catalogue.

Copy and paste:

```bash
# a floor: what any trained model has to beat
python examples/evaluate.py --recommender item-transitions --data data/beauty
# a trained recommender, seen items masked, one JSON line on stdout
python examples/evaluate.py --recommender runs/beauty --data data/beauty --mask-seen --json -
# on the validation items, into a file
python examples/evaluate.py --recommender popularity --data data/beauty --part validation --json popularity.json
```

The data folder holds `items.{parquet,jsonl,jsonl.gz,csv}` and `sequences.*` or `interactions.*`.
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import HfArgumentParser

from tokenization_items.catalogue import Catalogue
from trainers.evaluation import Recommender, evaluate, render_table
from trainers.floors import ItemTransitions, Popularity
from trainers.interactions import Interactions

FLOORS = {"item-transitions": ItemTransitions, "popularity": Popularity}


@dataclass
class EvaluationArguments:
    recommender: str = field(
        metadata={"help": "`item-transitions`, `popularity` (both counted from the training part) or a model folder."}
    )
    data: str = field(metadata={"help": "Data folder with the items and the interactions."})
    part: Literal["test", "validation"] = field(
        default="test", metadata={"help": "Predict the last item (test) or the second last (validation)."}
    )
    mask_seen: bool = field(default=False, metadata={"help": "Never recommend an item of the user's whole history."})
    max_history: int = field(default=20, metadata={"help": "Last items of a history that the recommender gets."})
    batch_size: int = field(default=64, metadata={"help": "Users per batch."})
    json: str | None = field(
        default=None,
        metadata={"help": "Write the result as one JSON line to this file; `-`: to stdout. Without it: a table."},
    )


def load_recommender(arguments: EvaluationArguments, interactions: Interactions) -> Recommender:
    """A floor by its name, or the trained recommender of a folder, with all of the data's items in its index."""
    if arguments.recommender in FLOORS:
        return FLOORS[arguments.recommender](interactions.training_part())
    if not Path(arguments.recommender).is_dir():
        raise SystemExit(f"--recommender {arguments.recommender} is no folder and none of {', '.join(FLOORS)}.")
    # a floor needs no model code: only a folder pays for its import
    from trainers.generative_recommender import GenerativeRecommender

    return GenerativeRecommender.from_pretrained(
        arguments.recommender, interactions.item_ids, batch_size=arguments.batch_size
    )


def main() -> None:
    (arguments,) = HfArgumentParser(
        EvaluationArguments, description=__doc__.split("\n")[0]
    ).parse_args_into_dataclasses()
    # stdout carries the result and nothing else
    with contextlib.redirect_stdout(sys.stderr):
        interactions = Interactions.from_folder(arguments.data, Catalogue.from_folder(arguments.data).item_ids)
        recommender = load_recommender(arguments, interactions)
        result = evaluate(
            recommender,
            interactions,
            part=arguments.part,
            mask_seen=arguments.mask_seen,
            max_history=arguments.max_history,
            batch_size=arguments.batch_size,
        )
    if arguments.json is None:
        print(render_table([result]), render_table(result["long_tail"]), sep="\n\n")
        return
    line = json.dumps(result)
    if arguments.json == "-":
        print(line)
        return
    temporary = f"{arguments.json}.tmp"
    Path(temporary).write_text(line + "\n", encoding="utf-8")
    os.replace(temporary, arguments.json)


if __name__ == "__main__":
    main()
