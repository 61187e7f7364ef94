r"""Pre-training of the item-level recommender on several domains that share an item tokenizer.

    # semantic IDs of all domains' texts by one RQ-k-means; also tiger-item-level, letter-item-level
    utgrec pretrain --model rq-kmeans-item-level --data data/sports data/games --output_dir runs/pre \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2
    utgrec train-baseline --model rq-kmeans-item-level --pretrained runs/pre --data data/beauty \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2 --output_dir runs/beauty
    # semantic IDs that are there, as UTGRec's or RecBase's: items/<domain>/ of `utgrec pretrain --stage tokenize`
    utgrec pretrain --model item-level --semantic_ids runs/universal --data data/sports data/games \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2 --output_dir runs/pre
    utgrec train-baseline --model item-level --semantic_ids runs/universal/items/beauty --pretrained runs/pre \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2 --data data/beauty --output_dir runs/beauty

A domain is a folder with items and interactions; its training part is learnt from. Every domain's content is read
without its mean, and no item has an embedding of its own, so that recommender/ has nothing of any domain. Writes it,
embeddings/<domain>/ unless --embeddings names folders in the domains' order, and, if the semantic IDs are made here,
tokenizer/ and items/<domain>/. Settings are those of the packaged configuration `baseline`, unless --config gives
others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from tokenization_items import UniversalItemTokenizer
from tokenization_items.item_embeddings import embed_items, encoder_fingerprint, load_embeddings
from tokenization_items.item_index import CODES_NAME
from tokenization_items.text_encoders import TextEncoder
from trainers.arguments import parse_sections
from trainers.commands.text_pretraining import TextPretrainingArguments, load_text_domains
from trainers.data.domains import Domain, check_trainable
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.methods.baselines import GIVEN, ITEM_LEVEL, semantic_ids_of
from trainers.methods.item_level import ItemLevelArguments, ItemLevelTrainingArguments
from trainers.methods.item_level_pretraining import pretrain_item_level, set_centred_content
from trainers.methods.item_tables import Content
from trainers.methods.plans import plan_item_level, show_plans
from trainers.methods.runs import check_output, finish_model, gathered_weights, place_training, save_recommender
from trainers.methods.semantic_ids import SemanticIDArguments
from trainers.methods.shared_semantic_ids import SHARED, collaborative_training, shared_semantic_ids
from trainers.runtime.run_file import run_values

SECTIONS: dict[str, tuple[type, ...]] = {
    "tokenizer": (SemanticIDArguments, EmbeddingTokenizerTrainingArguments),
    "item_level": (ItemLevelArguments, ItemLevelTrainingArguments),
}
SHOWN = (
    "model",
    "data",
    "output_dir",
    "semantic_ids",
    "text_encoder",
    "embeddings",
    "centre_domains",
    "minutes",
    "resume",
    "dry_run",
    "seed",
    "item_level.hidden_size",
    "item_level.num_layers",
    "item_level.max_history",
    "item_level.num_train_epochs",
    "item_level.domain_temperature",
    "item_level.learning_rate",
)
STAGES = ["checkpoints/recommender", "joint-tokenizer/training", "collaborative-embeddings-seed-*"]


@dataclass
class PretrainItemLevelArguments(TextPretrainingArguments):
    model: str = field(
        default=GIVEN,
        metadata={"help": f"{GIVEN} on --semantic_ids, or {', '.join(f'{name}{ITEM_LEVEL}' for name in SHARED)}."},
    )
    semantic_ids: str | None = field(
        default=None,
        metadata={"help": "Output folder of pretrain whose items/<domain>/ has the semantic IDs of each domain."},
    )
    centre_domains: bool = field(
        default=False, metadata={"help": "Semantic IDs of each domain's embeddings without their mean."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.model == GIVEN) != (self.semantic_ids is not None):
            raise SystemExit(f"--semantic_ids is what --model {GIVEN} recommends by: give both or neither.")
        if self.model != GIVEN and semantic_ids_of(self.model) not in SHARED:
            raise SystemExit(f"--model {self.model}: several domains share semantic IDs of {', '.join(SHARED)}.")


def run(
    arguments: PretrainItemLevelArguments,
    tokenizer: SemanticIDArguments,
    tokenizer_training: EmbeddingTokenizerTrainingArguments,
    item_level: ItemLevelArguments,
    training: ItemLevelTrainingArguments,
) -> None:
    output = Path(arguments.output_dir)
    told = run_values(arguments, tokenizer=(tokenizer, tokenizer_training), item_level=(item_level, training))
    if arguments.push_to_hub:
        training.push_to_hub = True
        training.hub_model_id = arguments.hub_model_id or output.absolute().name
    place_training(training, output / "checkpoints" / "recommender", arguments.seed)
    domains = load_text_domains(arguments)
    check_trainable(domains)
    given = given_tokenizers(arguments, domains)
    check_output(arguments, ["recommender"], STAGES, (tokenizer_training, training), ("pretrain", told))
    if arguments.dry_run:
        return show_plans(plan_item_level(domains, training))
    content, encoder = content_of(domains, arguments)
    tokenizers = given
    if tokenizers is None:
        method = semantic_ids_of(arguments.model)
        same = {"use_cpu": training.use_cpu, "disable_tqdm": training.disable_tqdm}
        tokenizers = shared_semantic_ids(
            method,
            domains,
            content,
            output,
            tokenizer_training,
            arguments.seed,
            arguments.resume,
            arguments.centre_domains,
            collaborative_training(output, arguments.seed, **same),
            **tokenizer.given(method),
        )
    for each in tokenizers.values():
        each.max_history = training.max_history
    if item_level.content:
        set_centred_content(domains, tokenizers, content, encoder)
    trainer = pretrain_item_level(domains, tokenizers, item_level, training, arguments.resume, arguments.minutes)
    weights = gathered_weights(trainer)
    if not trainer.is_world_process_zero():
        return
    save_recommender(trainer.model, None, output / "recommender", weights)
    finish_model(trainer, output / "recommender", {"license": arguments.license})


def given_tokenizers(
    arguments: PretrainItemLevelArguments, domains: Sequence[Domain]
) -> dict[str, UniversalItemTokenizer] | None:
    """Semantic IDs of `--semantic_ids`, with the rows of the domains' items; None where they are to be made.

    Raises:
        SystemExit: a domain has none there.
        UnknownItemError: they lack items.
    """
    if arguments.semantic_ids is None:
        return None
    found = {}
    for domain in domains:
        folder = Path(arguments.semantic_ids) / "items" / domain.name
        if not (folder / CODES_NAME).is_file():
            raise SystemExit(
                f"--semantic_ids {arguments.semantic_ids}: there is no items/{domain.name} in it. Make it by `utgrec "
                "pretrain --stage tokenize` with this domain in --data."
            )
        tokenizer = UniversalItemTokenizer.from_pretrained(folder, index_only=True)
        wanted = domain.interactions.item_ids
        tokenizer.index.rows(wanted)
        kept = set(wanted)
        tokenizer.index.remove([item_id for item_id in tokenizer.index.item_ids if item_id not in kept])
        found[domain.name] = tokenizer
    return found


def content_of(
    domains: Sequence[Domain], arguments: PretrainItemLevelArguments
) -> tuple[dict[str, Content], str | None]:
    """Embeddings of each domain's texts by its name, and the fingerprint of their encoder."""
    folders = [Path(folder) for folder in arguments.embeddings]
    if not folders:
        folders = [Path(arguments.output_dir) / "embeddings" / domain.name for domain in domains]
        with PartialState().main_process_first():  # the others find it done
            encoder = TextEncoder.from_pretrained(str(arguments.text_encoder))
            for domain, folder in zip(domains, folders, strict=True):
                embed_items(domain.catalogue, encoder, folder)
    content = {
        domain.name: Content.of_folder(folder, load_embeddings(folder, domain.interactions.item_ids))
        for domain, folder in zip(domains, folders, strict=True)
    }
    return content, encoder_fingerprint(folders[0], fitted=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(PretrainItemLevelArguments, SECTIONS, __doc__, argv, SHOWN, "baseline"))
