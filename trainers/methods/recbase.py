"""RecBase's tokenizer over several domains and its decoder: their arguments, how they are made and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from accelerate import PartialState
from torch import Tensor
from transformers import set_seed

from modeling_utgrec import RecBaseConfig, RecBaseForCausalLM, RecBaseTokenizerConfig
from tokenization_items.catalogue import Catalogue
from tokenization_items.item_index import CODES_NAME
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_template import MAX_FIELD_CHARACTERS, TextTemplate
from tokenization_items.tokenization_items import TokenizerMismatchError, UniversalItemTokenizer
from trainers.hub.download import find_part
from trainers.hub.upload import check_text_encoder
from trainers.methods.backbones import write_tiny_text_encoder
from trainers.methods.published import Published
from trainers.methods.recbase_tokenizer import (
    ITEMS_FOLDER,
    TOKENIZER_FOLDER,
    RecBaseItems,
    RecBaseTokenizerTrainingArguments,
    recbase_tokenizer_of_catalogues,
)
from trainers.recommender_trainer import RecommenderTrainingArguments

TINY_TEXT_ENCODER = "tiny"
ENCODER_FOLDER = "text_encoder"


@dataclass
class RecBaseTokenizerArguments:
    """The item tokenizer's text encoder, template and network."""

    text_encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={
            "help": "Hub id or folder of a sentence-transformers model or any text encoder of AutoModel; 'tiny': one "
            "with random weights, whose vectors say which words a text has."
        },
    )
    text_encoder_revision: str | None = field(default=None, metadata={"help": "Its revision on the Hub."})
    introduction: str = field(default="Describe an item:", metadata={"help": "How the texts of items begin."})
    introductions: list[str] = field(
        default_factory=list,
        metadata={"help": "Introductions of single domains, as 'movies=Describe a movie:'."},
    )
    max_field_characters: int = field(default=MAX_FIELD_CHARACTERS, metadata={"help": "Where a field is cut."})
    num_levels: int = field(default=4, metadata={"help": "Codes of a semantic ID."})
    codebook_size: int = field(default=1024, metadata={"help": "Codes of each level."})
    codebook_dim: int = field(default=128, metadata={"help": "Width of the codebook vectors."})
    hidden_sizes: list[int] = field(
        default_factory=lambda: [2048, 1024, 512, 256, 128], metadata={"help": "Widths of the encoder's layers."}
    )
    distance: Literal["euclidean", "cosine"] = field(default="euclidean", metadata={"help": "Of residuals and codes."})
    entropy_weight: float = field(default=0.01, metadata={"help": "Weight of the usage entropy; 0: ablation."})
    kl_weight: float = field(default=0.0, metadata={"help": "Weight of the KL divergence; 0: not variational."})
    centre_domains: bool = field(
        default=False,
        metadata={"help": "Code in what items differ from the mean of their domain; domains then share codes."},
    )
    restart_passes: int = field(default=20, metadata={"help": "Steps before an unused code starts anew; 0: never."})

    def templates(self, pretrained: TextTemplate | None = None) -> dict[str, TextTemplate]:
        """The template of each domain, and under "" that of the others; see [`load_domains`].

        Args:
            pretrained (`TextTemplate`, *optional*): of a pre-trained tokenizer, in place of the defaults.

        Raises:
            ValueError: an introduction names no domain.
        """
        usual = TextTemplate() if pretrained is None else pretrained
        given = TextTemplate(self.introduction, self.max_field_characters)
        changed = {name: value for name, value in asdict(given).items() if value != getattr(TextTemplate(), name)}
        templates = {"": replace(usual, **changed)}
        for each in self.introductions:
            domain, equals, introduction = each.partition("=")
            if not (domain and equals):
                raise ValueError(f"introductions are domain=text, such as 'movies=Describe a movie:', got {each!r}.")
            templates[domain] = replace(templates[""], introduction=introduction)
        return templates


@dataclass
class RecBaseArguments:
    """The recommender's decoder; what is not given follows from `size`."""

    size: Literal["tiny", "base", "large"] = field(
        default="base", metadata={"help": "Sizes of the paper, 0.3 and 1.5 billion parameters, or a tiny decoder."}
    )
    hidden_size: int | None = field(default=None, metadata={"help": "Width."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the feed-forward layers."})
    num_hidden_layers: int | None = field(default=None, metadata={"help": "Layers."})
    num_attention_heads: int | None = field(default=None, metadata={"help": "Heads."})
    num_key_value_heads: int | None = field(default=None, metadata={"help": "Heads of keys and values."})
    head_dim: int | None = field(default=None, metadata={"help": "Width of a head."})
    attention_dropout: float = field(default=0.0, metadata={"help": "Dropout of the attention's weights."})
    embedding_dropout: float = field(
        default=0.0, metadata={"help": "Dropout of code embeddings and last states; small domains need some."}
    )
    tie_word_embeddings: bool = field(default=False, metadata={"help": "One matrix for codes read and written."})
    warm_start: bool = field(
        default=False, metadata={"help": "Start the code embeddings from the item tokenizer's codebooks."}
    )
    freeze_codes: bool = field(
        default=False,
        metadata={
            "help": "With warm_start and tie_word_embeddings: train them no further, so that what is learnt holds for "
            "codes that no interaction had, as those of another domain. Fine-tuning trains them."
        },
    )
    normalize_over: str = field(
        default="vocabulary", metadata={"help": "'vocabulary', or 'items': the codes that exist after a prefix."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Validations without a better NDCG@10 before the training stops."},
    )
    walks_per_item: int = field(
        default=3,
        metadata={"help": "Sequences of alike items to pre-train on, from each item of --catalogues; 0: none."},
    )

    def __post_init__(self):
        if self.walks_per_item < 0:
            raise ValueError(f"walks_per_item must be at least 0, got {self.walks_per_item}.")
        if self.freeze_codes and not (self.warm_start and self.tie_word_embeddings):
            raise ValueError(
                "freeze_codes keeps what warm_start makes, for codes read and written: turn warm_start and "
                "tie_word_embeddings on, too."
            )


# What the flags `--recommender.<flag>` of the examples set, see `trainers.arguments`.
RECBASE_SECTIONS = {
    "tokenizer": (RecBaseTokenizerArguments, RecBaseTokenizerTrainingArguments),
    "recommender": (RecBaseArguments, RecommenderTrainingArguments),
}
# The base model.
PUBLISHED_RECOMMENDER = Published(
    "Zhou et al. 2025 (RecBase), 0.3 billion parameters",
    {
        "recommender.hidden_size": 1024,
        "recommender.intermediate_size": 1024,
        "recommender.num_hidden_layers": 24,
        "recommender.num_attention_heads": 16,
        "recommender.normalize_over": "vocabulary",
        "recommender.pretrained_on_other_domains": True,
    },
)
PUBLISHED_TOKENIZER = Published(
    "Zhou et al. 2025 (RecBase), CL-VAE; its codebooks' width of reczoo/RecBase, train.sh",
    {
        "tokenizer.num_levels": 4,
        "tokenizer.codebook_size": 1024,
        "tokenizer.codebook_dim": 128,
        "tokenizer.hidden_sizes": [2048, 1024, 512, 256, 128],
        "tokenizer.learning_rate": 1e-4,
        "tokenizer.weight_decay": 1e-4,
        "tokenizer.batch_size": 2048,
        "tokenizer.num_train_epochs": 100,
        "tokenizer.curriculum_epochs": 5,
    },
)
# The arguments that are the configurations'.
ARCHITECTURE = {each.name for each in fields(RecBaseArguments)} & {each.name for each in fields(RecBaseConfig)}
NETWORK = {each.name for each in fields(RecBaseTokenizerArguments)} & {
    each.name for each in fields(RecBaseTokenizerConfig)
} - {"text_encoder"}


def train_recbase_tokenizer(
    arguments: RecBaseTokenizerArguments,
    training: RecBaseTokenizerTrainingArguments,
    catalogues: list[Catalogue],
    output: Path,
    seed: int,
    resume: bool = False,
    max_history: int = 20,
    allow_collapsed: bool = False,
) -> RecBaseItems:
    """Embeds the items of all domains, trains one tokenizer on them, and writes `embeddings/<domain>/`, `tokenizer/`
    and `items/<domain>/` to the output folder. Embeddings that are there are kept.

    Args:
        catalogues (`list[Catalogue]`): the domains' items, with texts by the templates of `arguments`.
        max_history (`int`, *optional*, defaults to 20): items of a history that the recommender will read.
        allow_collapsed (`bool`, *optional*, defaults to `False`): see [`recbase_tokenizer`].

    Raises:
        PublishingError: if the tokenizer is to be pushed, and its text encoder is a folder of this machine.
        EmbeddingError, CapacityError, ValueError: as [`recbase_tokenizer`].
    """
    name = arguments.text_encoder
    if training.push_to_hub:
        check_text_encoder(name, is_here=name == TINY_TEXT_ENCODER)
    if name == TINY_TEXT_ENCODER:
        name = str(output / ENCODER_FOLDER)
        with PartialState().main_process_first():
            if PartialState().is_main_process and not (output / ENCODER_FOLDER / "config.json").exists():
                write_tiny_text_encoder([text for catalogue in catalogues for text in catalogue.texts], name, seed)
    encoder = TextEncoder.from_pretrained(name, revision=arguments.text_encoder_revision)
    config = {key: getattr(arguments, key) for key in NETWORK}
    items = recbase_tokenizer_of_catalogues(
        catalogues,
        encoder,
        output,
        training=training,
        seed=seed,
        resume=resume,
        max_history=max_history,
        allow_collapsed=allow_collapsed,
        **config,
    )
    PartialState().print(items)
    return items


def load_semantic_ids(folder: str | Path, catalogues: Sequence[Catalogue]) -> dict[str, UniversalItemTokenizer]:
    """The semantic IDs in `items/<domain>/` of a folder, all made by one item tokenizer.

    Raises:
        ValueError: a domain has none there.
        UnknownItemError: an index lacks items of its domain.
        TokenizerMismatchError: the domains' semantic IDs are of different item tokenizers.
    """
    folder = Path(folder) / ITEMS_FOLDER
    names = [catalogue.name for catalogue in catalogues]
    lacking = [name for name in names if not (folder / name / CODES_NAME).is_file()]
    if lacking:
        raise ValueError(
            f"{folder} holds no semantic IDs of {', '.join(lacking)}: tokenize the domain's items into a folder of "
            "its name there first."
        )
    tokenizers = {name: UniversalItemTokenizer.from_pretrained(folder / name) for name in names}
    for catalogue in catalogues:
        tokenizers[catalogue.name].index.rows(catalogue.item_ids)
    first = names[0]
    for name, tokenizer in tokenizers.items():
        if tokenizer.fingerprint != tokenizers[first].fingerprint:
            raise TokenizerMismatchError(
                f"{folder}: the semantic IDs of {first} are of the item tokenizer {tokenizers[first].fingerprint}, "
                f"those of {name} of {tokenizer.fingerprint}. A recommender reads those of one tokenizer."
            )
    return tokenizers


def new_recbase(
    arguments: RecBaseArguments,
    tokenizer: UniversalItemTokenizer,
    seed: int,
    codebooks: Sequence[Tensor] | None = None,
) -> RecBaseForCausalLM:
    """A recommender with random weights for a tokenizer's semantic IDs; with the tokenizer's `codebooks`, one `(codes,
    D)` for each level, the code embeddings start from them (see [`RecBaseForCausalLM.warm_start`])."""
    given = {name: getattr(arguments, name) for name in ARCHITECTURE}
    config = getattr(RecBaseConfig, arguments.size)(
        level_sizes=tokenizer.index.level_sizes,
        max_history=tokenizer.max_history,
        item_tokenizer_fingerprint=tokenizer.fingerprint,
        **{name: value for name, value in given.items() if value is not None},
    )
    set_seed(seed)
    recommender = RecBaseForCausalLM(config)
    tokenizer.check_recommender(recommender)
    if codebooks is not None:
        recommender.warm_start(codebooks, arguments.freeze_codes)
    return recommender


def codebooks_of(pretrained: str | Path, revision: str | None = None) -> list[Tensor]:
    """The vectors of each level's codes, `(codes, D)`, of a pre-training's item tokenizer, see
    [`~trainers.hub.download.find_part`]."""
    there = find_part(pretrained, TOKENIZER_FOLDER, revision)
    tokenizer = UniversalItemTokenizer.from_pretrained(there.name, revision=there.revision)
    return tokenizer.network.quantizer.level_vectors()
