r"""Semantic IDs for the items of a catalogue, or for new items: those given before stay.

    utgrec tokenize --tokenizer runs/pretrained/tokenizer --data data/office --output_dir runs/office-items
    accelerate launch -m trainers tokenize --tokenizer runs/office/tokenizer --data data/office-new --only_new \
        --output_dir runs/office-items

If it is stopped, the same command goes on where it was.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from accelerate import PartialState

from tokenization_items import Catalogue, UniversalItemTokenizer
from tokenization_items.files import check_writable, write_json
from tokenization_items.tokenization_items import TOKENIZER_FILE
from trainers.arguments import parse_sections
from trainers.hub.download import find_model
from trainers.run_file import run_values, write_run_file

UNFINISHED = ".unfinished"  # folder within the output folder, deleted at the end


@dataclass
class TokenizeArguments:
    tokenizer: str = field(metadata={"help": "Folder or Hub id of an item tokenizer with its network."})
    data: str = field(metadata={"help": "Data folder with the items."})
    output_dir: str = field(metadata={"help": "Where the tokenizer goes, with its item index."})
    revision: str | None = field(default=None, metadata={"help": "Of --tokenizer on the Hub: branch, tag, commit."})
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "Fields of an item's text, in order; default: those of the tokenizer's training."},
    )
    only_new: bool = field(default=False, metadata={"help": "Leave out items that the index has already."})
    index_only: bool = field(default=False, metadata={"help": "Write the index without the network."})
    batch_tokens: int = field(default=8192, metadata={"help": "Tokens of one batch."})
    num_workers: int = field(default=4, metadata={"help": "Threads of a process that open and resize images."})
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder for what the vision tower makes of images, for the next time."}
    )
    introduction: str | None = field(
        default=None,
        metadata={"help": "How the texts of items begin (RecBase), as 'Describe a movie:'; default: the tokenizer's."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace an item tokenizer that is in output_dir."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU."})


def run(arguments: TokenizeArguments) -> dict:
    """Tokenizes, saves, prints a report and returns it."""
    state, output_dir = PartialState(cpu=arguments.use_cpu), Path(arguments.output_dir)
    if (output_dir / TOKENIZER_FILE).is_file() and not (output_dir / UNFINISHED).is_dir() and not arguments.overwrite:
        raise SystemExit(
            f"{output_dir} holds a finished item tokenizer. To keep it, give another --output_dir; --overwrite "
            "replaces it."
        )
    with state.main_process_first():  # the others find what was downloaded
        there = find_model(arguments.tokenizer, arguments.revision)
        tokenizer = UniversalItemTokenizer.from_pretrained(there.name, revision=there.revision)
        # What is saved has decoders too.
        network = tokenizer.encoding_network if arguments.index_only else tokenizer.network
    network.to(state.device)
    assert tokenizer.processor is not None  # a network brings its own
    template = tokenizer.processor.template
    if arguments.introduction is not None:
        if template is None:
            raise SystemExit("--introduction is for RecBase's item tokenizer; this one reads fields without any.")
        template = replace(template, introduction=arguments.introduction)
    fields = arguments.text_fields or tokenizer.text_fields
    catalogue = Catalogue.from_folder(arguments.data, fields, template=template)
    share = range(state.process_index, len(catalogue), state.num_processes)
    counts = catalogue.check(images=share)  # the other processes open the other images
    state.print(f"{catalogue.name}: {counts['num_items']:,} items, {counts['num_images']:,} with image")
    if arguments.only_new:
        catalogue = catalogue.select(np.flatnonzero([item_id not in tokenizer for item_id in catalogue.item_ids]))
        state.print(f"{len(catalogue):,} of them are new")
    check_writable(output_dir)
    if state.is_main_process:
        write_run_file(output_dir, "tokenize", run_values(arguments))
    report = tokenizer.add_items(
        catalogue,
        batch_tokens=arguments.batch_tokens,
        num_workers=arguments.num_workers,
        feature_cache=arguments.feature_cache,
        resume_folder=output_dir / UNFINISHED,
        state=state,
    )
    if state.is_main_process:
        network.to("cpu")  # type: ignore[arg-type]
        tokenizer.save_pretrained(output_dir, include_network=not arguments.index_only)
        print(report)
        write_json(output_dir / "assignment_report.json", report.to_dict())
        shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
    state.wait_for_everyone()
    return report.to_dict()


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(TokenizeArguments, {}, __doc__, argv))
