"""Models for programs that have none of our code: a plain Qwen3, ONNX, or the beam search for any model of the Hub.

    utgrec export runs/c-recbase/recommender --output_dir runs/plain
    utgrec export runs/item-level/recommender --format onnx --output_dir runs/onnx
    utgrec export --format custom_generate --output_dir runs/generate

- qwen3, of RecBase's decoder with its items (`utgrec finetune --model recbase`): a Qwen3ForCausalLM with a text
  tokenizer of codes (<s_a_0>, ...), sid2pid.json, and the constraint to items that exist as logits processors for vLLM
  and SGLang. Its README says how prompts are written.
- onnx, of an item-level recommender: its two networks for onnxruntime, the history's and the depth head.
- custom_generate: a repository for model.generate(..., custom_generate="org/name", trie=...) with any Qwen3 or T5 that
  generates semantic IDs.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modeling_utgrec import ItemLevelForCausalLM, RecBaseForCausalLM
from tokenization_items.files import check_writable
from tokenization_items.hub_folders import model_folder
from tokenization_items.tokenization_items import UniversalItemTokenizer
from trainers.arguments import parse_sections
from trainers.hub.custom_generate import export_custom_generate
from trainers.hub.download import find_model
from trainers.hub.onnx_export import check_installed, export_onnx
from trainers.hub.qwen3_export import check_exportable, export_qwen3
from trainers.methods.recommendation_rules import RECOMMENDER_FILE, saved_rules
from trainers.rankers.generative import load_model

FORMATS = {"qwen3": RecBaseForCausalLM, "onnx": ItemLevelForCausalLM, "custom_generate": None}
KINDS = {"qwen3": "RecBase's decoder (recbase)", "onnx": "an item-level recommender (item_level)"}


@dataclass
class ExportArguments:
    output_dir: str = field(metadata={"help": "Where the export goes, a folder of its own."})
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id; the first word, or this flag."})
    revision: str | None = field(default=None, metadata={"help": "Of the model on the Hub: branch, tag, commit."})
    format: str = field(default="qwen3", metadata={"help": "qwen3, onnx or custom_generate."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an earlier export in output_dir."})
    dry_run: bool = field(default=False, metadata={"help": "Check and say what would be done; write nothing."})


def run(arguments: ExportArguments) -> list[str]:
    """Exports, says what was written, and returns the files' names; none with `dry_run`."""
    output, kind = Path(arguments.output_dir), arguments.format
    if kind not in FORMATS:
        raise SystemExit(f"--format {kind}: expected {', '.join(FORMATS)}.")
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not arguments.overwrite):
        raise SystemExit(f"{output} is there already: give another --output_dir, or --overwrite to replace it.")
    check_writable(output, replaced=True)
    if kind == "custom_generate":
        if arguments.model is not None:
            raise SystemExit(f"--format custom_generate is of no model: leave {arguments.model} out.")
        files = [] if arguments.dry_run else export_custom_generate(output, arguments.overwrite)
        return said(arguments, "the beam search for Qwen3 and T5", files)
    if arguments.model is None:
        raise SystemExit(f"--format {kind} needs a model: utgrec export MODEL --output_dir {output}.")
    there = find_model(arguments.model, arguments.revision)
    model = load_model(there.name, there.revision)
    expected = FORMATS[kind]
    assert expected is not None
    if not isinstance(model, expected):
        fits = [name for name, cls in FORMATS.items() if cls is not None and isinstance(model, cls)]
        fix = f"give --format {fits[0]}" if fits else "give the folder of such a recommender"
        raise SystemExit(
            f"--format {kind} is of {KINDS[kind]}, {there.name} holds {model.config.model_type!r}: {fix}."
        )
    tokenizer = UniversalItemTokenizer.from_pretrained(there.name, index_only=True, revision=there.revision)
    tokenizer.check_recommender(model)
    rules = saved_rules(model_folder(there.name, (RECOMMENDER_FILE,), there.revision))
    without_rules = rules.deny or rules.allow is not None
    told = " (its rules, what to deny and to choose from, are not part of the export)" if without_rules else ""
    if isinstance(model, ItemLevelForCausalLM):
        check_installed()
        files = [] if arguments.dry_run else export_onnx(model.eval(), tokenizer, output, arguments.overwrite)
        return said(arguments, f"{there.name}, two networks{told}", files)
    assert isinstance(model, RecBaseForCausalLM)
    check_exportable(model.config)
    what = f"{there.name}, {len(tokenizer):,} items, levels of {model.config.level_sizes} codes"
    if tokenizer.memory is not None:
        what += " (its memory is not part of the export)"
    what += told
    files = [] if arguments.dry_run else export_qwen3(model, tokenizer.index, output, arguments.overwrite)
    return said(arguments, what, files)


def said(arguments: ExportArguments, what: str, files: list[str]) -> list[str]:
    """Prints what was done, or would be, and returns the files."""
    if arguments.dry_run:
        print(f"{what}: would go to {arguments.output_dir} as {arguments.format}. Nothing was written.")
    else:
        print(f"{arguments.output_dir} ({arguments.format}): {what}; {len(files)} files, see README.md")
    return files


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's. The model may stand first, without a flag."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = ["--model", *argv]
    run(*parse_sections(ExportArguments, {}, __doc__, argv))
