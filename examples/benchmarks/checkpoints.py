"""Small checkpoints of finished runs, with their cards, ready for the Hub: UTGRec's item tokenizer without backbone
and decoders, RecBase's, and a recommender with the index of its items.

Copy and paste:

```bash
python examples/benchmarks/checkpoints.py --name org/utgrec --output_dir runs/checkpoints \
    --utgrec runs/universal/tokenizer --recbase runs/recbase/tokenizer --recommender runs/office/recommender \
    --encoder sentence-transformers/all-MiniLM-L6-v2 --license apache-2.0
bash runs/checkpoints/push.sh    # what would be sent; with --push it is
```

Each folder holds what `utgrec publish` sends, at most `--megabytes` of it. A tokenizer names its backbone or text
encoder by a Hub id: `--encoder` is the id of what the run had in a folder, the revision `--encoder_revision`; by the
fingerprint that the checkpoint has it is seen whether it is the same when it is loaded. The codes that the small
checkpoint gives are compared with those of the run on the items of `--data`, or on a few made-up ones. Cards are those
of the runs, with all that was measured (`item_tokenizers.py --tokenizers ... --write_cards` adds the health on further
catalogues); a run without a card is refused.
"""

from __future__ import annotations

import shlex
import shutil
from argparse import RawDescriptionHelpFormatter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from transformers import HfArgumentParser

from hub_cards import Card, ModelCardValues, is_repository, load_values, save_card
from tokenization_items import Catalogue, UniversalItemTokenizer
from tokenization_items.files import read_json_object, write_json
from trainers.hub.upload import format_bytes, plan_folder, published_files

COMPARED = 64  # items whose codes are compared
KINDS = ("utgrec", "recbase", "recommender")
# Of a network's configuration: what names the encoder that it reads through, and the revision.
ENCODERS = {"utgrec": ("backbone_name_or_path", "backbone_revision"), "recbase": ("text_encoder", None)}


@dataclass
class CheckpointsArguments:
    name: str = field(metadata={"help": "Where they will go: <user or organisation>/<name>; each adds what it is."})
    output_dir: str = field(metadata={"help": "Where the checkpoints go, a folder for each."})
    utgrec: str | None = field(default=None, metadata={"help": "Folder of UTGRec's item tokenizer."})
    recbase: str | None = field(default=None, metadata={"help": "Folder of RecBase's item tokenizer."})
    recommender: str | None = field(default=None, metadata={"help": "Folder of a recommender."})
    encoder: str | None = field(
        default=None, metadata={"help": "Hub id of the backbone and text encoder that the runs had in a folder."}
    )
    encoder_revision: str | None = field(default=None, metadata={"help": "Its commit."})
    data: str | None = field(default=None, metadata={"help": "Data folder of items whose codes are compared."})
    license: str | None = field(default=None, metadata={"help": "Licence of the models, for their cards."})
    megabytes: float = field(default=10.0, metadata={"help": "Most that one checkpoint may have, in 10^6 bytes."})


def main(arguments: CheckpointsArguments) -> None:
    given = {kind: Path(folder) for kind in KINDS if (folder := getattr(arguments, kind)) is not None}
    if not given:
        raise SystemExit("Nothing to make: give --utgrec, --recbase or --recommender.")
    if not is_repository(arguments.name) or "/" not in arguments.name:
        raise SystemExit(f"--name {arguments.name}: expected <user or organisation>/<name>, such as org/utgrec.")
    cards = {kind: card_of(folder) for kind, folder in given.items()}
    output = Path(arguments.output_dir)
    if found := [str(output / kind) for kind in given if (output / kind).exists()]:
        raise SystemExit(f"{found[0]} is there: give another --output_dir, or remove it.")
    commands = []
    for kind, folder in given.items():
        if kind == "recommender":
            copy_published(folder, output / kind)
        else:
            make_tokenizer(kind, folder, output / kind, arguments)
        save_card(output / kind, replace(cards[kind], **({"license": arguments.license} if arguments.license else {})))
        check_size(output / kind, arguments.megabytes)
        flag = "recommender" if kind == "recommender" else "tokenizer"
        commands.append(
            ["utgrec", "publish", "--name", f"{arguments.name}-{kind}", f"--{flag}", str((output / kind).absolute())]
        )
    script = "#!/bin/sh\nset -e\n" + "".join(f'{shlex.join(words)} "$@"\n' for words in commands)
    (output / "push.sh").write_text(script, encoding="utf-8")
    print(f"bash {output / 'push.sh'}    # lists what would be sent; with --push it is sent, private")


def card_of(folder: Path) -> Card:
    """The values of a run's card.

    Raises:
        SystemExit: it has none.
    """
    values = load_values(folder) if folder.is_dir() else None
    if not isinstance(values, ModelCardValues):
        raise SystemExit(f"{folder} holds no model with a card (card_values.json): give the folder of a finished run.")
    return values


def make_tokenizer(kind: str, source: Path, target: Path, arguments: CheckpointsArguments) -> None:
    """An item tokenizer without what only its training needs, whose codes are the same."""
    tokenizer = UniversalItemTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(target, include_network=True, without_decoders=kind == "utgrec")
    compare_codes(source, target, arguments.data)
    name_key, revision_key = ENCODERS[kind]
    config = read_json_object(target / "config.json")
    name = config.get(name_key)
    if name is not None and (arguments.encoder is not None or Path(name).is_dir()):
        if arguments.encoder is None:
            raise SystemExit(f"{source} names {name}, a folder of this machine: say its Hub id by --encoder.")
        config[name_key] = arguments.encoder
        if revision_key is not None:
            config[revision_key] = arguments.encoder_revision or config.get(revision_key)
        write_json(target / "config.json", config)


def compare_codes(source: Path, target: Path, data: str | None) -> None:
    """Raises unless both tokenizers give items the same codes."""
    codes = []
    for folder in (source, target):
        tokenizer = UniversalItemTokenizer.from_pretrained(folder)
        template = tokenizer.loaded_processor.template
        if data is not None:
            catalogue = Catalogue.from_folder(data, tokenizer.text_fields, template=template)
            catalogue = catalogue.select(np.arange(min(COMPARED, len(catalogue))))
        else:
            records = [{"item_id": str(row), "title": f"thing {row} of {row % 7}"} for row in range(8)]
            catalogue = Catalogue.from_records(records, tokenizer.text_fields, template=template)
        bare = UniversalItemTokenizer.from_network(tokenizer.encoding_network, tokenizer.loaded_processor)
        codes.append(bare.compute_codes(catalogue)[0])
    different = int((codes[0] != codes[1]).any(axis=1).sum())
    if different:
        raise ValueError(f"{target} gives {different} of {len(codes[0])} items other codes than {source}.")
    print(f"{target}: the codes of {len(codes[0])} items are those of {source}")


def copy_published(source: Path, target: Path) -> None:
    """What `utgrec publish` would send of a folder."""
    for name in published_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def check_size(folder: Path, megabytes: float) -> None:
    """Raises SystemExit if a push would send more than that."""
    plan = plan_folder(folder)
    print(f"{folder}\n{plan}")
    if plan.num_bytes > megabytes * 1e6:
        largest = ", ".join(
            f"{name} {format_bytes(size)}" for name, size in sorted(plan.files, key=lambda x: -x[1])[:3]
        )
        raise SystemExit(f"{folder} has {format_bytes(plan.num_bytes)}, more than {megabytes:g} MB: {largest}.")


if __name__ == "__main__":
    main(
        HfArgumentParser(
            CheckpointsArguments, description=__doc__, formatter_class=RawDescriptionHelpFormatter
        ).parse_args_into_dataclasses()[0]
    )
