"""Evaluates recommenders on a data folder: leave-one-out or the data's own split, full ranking over the catalogue.

Copy and paste:

```bash
# a floor: what any trained model has to beat
python examples/evaluate.py --recommender item-transitions --data data/beauty
# a trained recommender, seen items masked, one JSON line on stdout
python examples/evaluate.py --recommender runs/beauty --data data/beauty --mask_seen --json -
# the items whose texts are nearest to the last one's (embeddings of examples/embed_items.py)
python examples/evaluate.py --recommender nearest-items --embeddings runs/beauty-texts --data data/beauty
# is it better than the floor? three seeds against it, with a paired test
python examples/evaluate.py --recommender runs/seed-* --compare_with item-transitions --data data/beauty --ks 5 10 20
# the same with the floor evaluated before
python examples/evaluate.py --recommender item-transitions --data data/beauty --per_user --json floor.json
python examples/evaluate.py --recommender runs/beauty --compare_with floor.json --data data/beauty
# no training on the domain: AUC of each user's candidates (and the full ranking), of a pre-trained recommender, whose
# tokenizer has not seen the items either, and of the items whose texts are nearest
python examples/tokenize_items.py --tokenizer runs/pretrained/tokenizer --data data/beauty --output_dir runs/items
python examples/evaluate.py --zero_shot --recommender runs/pretrained/recommender nearest-items --items runs/items \
    --embeddings runs/beauty-texts --data data/beauty --json -
```

The data folder holds `items.{parquet,jsonl,jsonl.gz,csv}` and `sequences.*` or `interactions.*`; a column `split` in
the latter is the split.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("evaluate")
