r"""Prepares a data folder for training from Amazon Reviews, MovieLens, RecBole, LETTER, MiniOneRec, UTGRec or tables.

    # what there is to read, before any work
    python examples/prepare_data.py --format amazon-2023 --interactions Musical_Instruments.jsonl.gz \
        --items meta_Musical_Instruments.jsonl.gz --output_dir data/instruments --dry_run
    # Amazon Reviews: files as they are downloaded (2014, 2018, 2023), or the Hub; images only when asked for
    python examples/prepare_data.py --format amazon-2014 --interactions reviews_Beauty_5.json.gz \
        --items meta_Beauty.json.gz --output_dir data/beauty --download_images
    python examples/prepare_data.py --format amazon-2023-hub --category Musical_Instruments \
        --output_dir data/instruments
    # folders
    python examples/prepare_data.py --format movielens --input ml-1m --output_dir data/ml-1m --min_rating 4
    python examples/prepare_data.py --format letter --input LETTER/data/Beauty --output_dir data/beauty
    python examples/prepare_data.py --format minionerec --input MiniOneRec/data/Amazon --name Office_Products \
        --output_dir data/office
    # tables: csv, tsv, jsonl (also gzipped), parquet
    python examples/prepare_data.py --format tabular --interactions log.csv --columns user_id=buyer item_id=sku \
        --items goods.parquet --item_columns item_id=sku title=name --timestamp_unit ms --split temporal \
        --co_occurrence --output_dir data/shop
    # is a prepared folder what it was?
    python examples/prepare_data.py --check --output_dir data/shop

The folder holds items.parquet, interactions.parquet, images, and prepared.json: counts, choices, checksums, and what
was dropped and why. It appears when it is complete.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("prepare")
