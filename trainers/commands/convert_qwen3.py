r"""A plain Qwen3 that generates semantic IDs, with its `sid2pid.json`, as our recommender: the way in.

    utgrec convert-qwen3 --model org/sid-model --sid2pid sid2pid.json --output_dir runs/theirs \
        --item_format '<|sid_begin|>{sid}<|sid_end|>' --prompt_format '{items}<|sid_begin|>'
    utgrec recommend --recommender runs/theirs --history item-1 item-2

The text tokenizer has the codes as <s_a_0>, <s_b_0>, ... (OpenOneRec, FlashRec) or <a_0>, ... (MiniOneRec). The
formats say how its prompts are written; recommending puts their tokens around the history. What `utgrec export` wrote
needs --model and --output_dir alone, and becomes the recommender that it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tokenization_items.files import check_writable
from tokenization_items.hub_folders import model_folder
from tokenization_items.tokenization_items import TOKENIZER_FILE
from trainers.arguments import parse_sections
from trainers.hub.download import find_model
from trainers.hub.qwen3_export import PROMPT_FILE
from trainers.hub.qwen3_import import PlainQwen3, read_prompt
from trainers.hub.sid_tokens import SID2PID
from trainers.methods.runs import save_recommender


@dataclass
class ConvertQwen3Arguments:
    model: str = field(metadata={"help": "Folder or Hub id of the plain Qwen3 with its text tokenizer."})
    output_dir: str = field(metadata={"help": "Where the recommender goes, with its items."})
    revision: str | None = field(default=None, metadata={"help": "Of the model on the Hub: branch, tag, commit."})
    sid2pid: str | None = field(
        default=None, metadata={"help": "Which item has which semantic ID; by default sid2pid.json beside the model."}
    )
    most_frequent: bool = field(
        default=False, metadata={"help": "Of items with one semantic ID keep that with the highest count."}
    )
    item_format: str | None = field(
        default=None, metadata={"help": "An item in a prompt, with {sid} for its codes. By default {sid}."}
    )
    prompt_format: str | None = field(
        default=None, metadata={"help": "A prompt, with {items} for the history, oldest first. By default {items}."}
    )
    max_history: int | None = field(default=None, metadata={"help": "Latest items that are read. By default 20."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a recommender that is in output_dir."})
    dry_run: bool = field(default=False, metadata={"help": "Check and say what would be done; write nothing."})


def run(arguments: ConvertQwen3Arguments) -> None:
    """Converts, saves and says what the recommender is."""
    output = Path(arguments.output_dir)
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not arguments.overwrite):
        raise SystemExit(f"{output} is there already: give another --output_dir, or --overwrite to replace it.")
    if output.is_dir() and any(output.iterdir()) and not (output / TOKENIZER_FILE).is_file():
        raise SystemExit(f"{output} holds no recommender that could be replaced: give another --output_dir.")
    check_writable(output, replaced=True)
    there = find_model(arguments.model, arguments.revision)
    beside = there.folder
    if there.revision is not None:
        beside = model_folder(there.name, [SID2PID, PROMPT_FILE], there.revision)
    sid2pid = beside / SID2PID if arguments.sid2pid is None else Path(arguments.sid2pid)
    if not sid2pid.is_file():
        raise SystemExit(f"{sid2pid} is no file: give --sid2pid, which says which item has which semantic ID.")
    given = {name: getattr(arguments, name) for name in ("item_format", "prompt_format", "max_history")}
    prompt = replace(read_prompt(beside), **{name: value for name, value in given.items() if value is not None})
    plain = PlainQwen3(there, sid2pid, prompt, arguments.most_frequent)
    left_out = f" ({plain.items.left_out:,} left out)" if plain.items.left_out else ""
    said = f"{len(plain.items.item_ids):,} items{left_out}, levels of {plain.tokens.sizes} codes"
    if arguments.dry_run:
        print(f"{there.name}: {said}; would go to {output}. Nothing was written.")
        return
    recommender, tokenizer = plain.load()
    save_recommender(recommender, tokenizer, output)
    print(f"{output}: {said}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(ConvertQwen3Arguments, {}, __doc__, argv))
