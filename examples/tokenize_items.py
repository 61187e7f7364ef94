"""Gives the items of a catalogue their identifiers, or new items theirs: those given before stay.

    python examples/tokenize_items.py --tokenizer runs/pretrained/tokenizer --data data/office \
        --output_dir runs/office-items
    python examples/tokenize_items.py --tokenizer runs/office/tokenizer --data data/office-new --only_new \
        --output_dir runs/office-items
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from tokenization_items import Catalogue, UniversalItemTokenizer
from trainers.arguments import HelpFormatter


@dataclass
class TokenizeArguments:
    tokenizer: str = field(metadata={"help": "Folder or Hub id of an item tokenizer with its network."})
    data: str = field(metadata={"help": "Data folder with the items."})
    output_dir: str = field(metadata={"help": "Where the tokenizer goes, with its item index."})
    only_new: bool = field(default=False, metadata={"help": "Leave out items that the index has already."})
    index_only: bool = field(default=False, metadata={"help": "Write the index without the network."})
    batch_tokens: int = field(default=8192, metadata={"help": "Tokens of one batch."})


def main(arguments: TokenizeArguments) -> dict:
    """Tokenizes, saves, prints a report and returns it."""
    catalogue = Catalogue.from_folder(arguments.data)
    counts = catalogue.check()
    tokenizer = UniversalItemTokenizer.from_pretrained(arguments.tokenizer)
    print(f"{catalogue.name}: {counts['num_items']:,} items, {counts['num_images']:,} with image")
    if arguments.only_new:
        catalogue = catalogue.select(np.flatnonzero([item_id not in tokenizer for item_id in catalogue.item_ids]))
        print(f"{len(catalogue):,} of them are new")
    report = tokenizer.add_items(catalogue, batch_tokens=arguments.batch_tokens)
    tokenizer.save_pretrained(arguments.output_dir, include_network=not arguments.index_only)
    print(report)
    path = Path(arguments.output_dir) / "assignment_report.json"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    os.replace(temporary, path)
    return report.to_dict()


if __name__ == "__main__":
    main(
        HfArgumentParser(
            TokenizeArguments, description=__doc__, formatter_class=HelpFormatter
        ).parse_args_into_dataclasses()[0]
    )
