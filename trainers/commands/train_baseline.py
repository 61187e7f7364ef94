r"""Training of a baseline on a data folder; it is saved, and evaluated beside what needs no training.

    # from interactions alone
    utgrec train-baseline --model sasrec --data data/beauty --output_dir runs/beauty-sasrec
    # semantic IDs of the items' texts and a T5 on them; a decoder: tiger-decoder; an item-level one: tiger-item-level
    utgrec train-baseline --model tiger --data data/beauty --output_dir runs/beauty-tiger \
        --text_encoder sentence-transformers/all-MiniLM-L6-v2
    # item-level, on semantic IDs that are there, as UTGRec's; with a memory of transitions and texts
    utgrec train-baseline --model item-level --semantic_ids runs/beauty/tokenizer --text_encoder tf-idf --memory \
        --data data/beauty --output_dir runs/beauty-item-level
    # items made from their texts; pre-trained on other domains by `utgrec pretrain --model unisrec` (or item-level)
    utgrec train-baseline --model unisrec --text_encoder sentence-transformers/all-MiniLM-L6-v2 \
        --pretrained runs/unisrec --data data/beauty --output_dir runs/beauty-unisrec
    # with embeddings that `utgrec embed` made, half an hour at most; on from the last checkpoint of each stage
    utgrec train-baseline --model letter --embeddings runs/beauty-texts --data data/beauty --minutes 30 \
        --output_dir runs/beauty-letter --resume

Settings are those of the packaged configuration `baseline`, unless --config gives others: published sizes, and the
epoch that is best on the validation items. --sequential.<flag> sets what is on items, from SASRec to MISSRec;
--tokenizer.<flag> an item tokenizer, --recommender.<flag> the recommender on its semantic IDs, or --item_level.<flag>
an item-level one, which reads the texts' embeddings too. LETTER's collaborative embeddings are those of a SASRec that
sees the training part alone; they stay in the output folder.

Writes `recommender/` (for a generative one with the index of its items), `tokenizer/` for semantic IDs, and
`results.json`: the model, with every setting that differs from the published one, and what needs no training
(popularity, item transitions, the linear ranker with settings chosen on validation, which reads the texts by TF-IDF if
there are no embeddings, and, with embeddings, the nearest items) on the test items. With --memory a generative one
gets a memory of transitions and content, see `utgrec memory`, and is judged with and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from hub_cards import Evaluation
from hub_cards.formatting import markdown_table
from tokenization_items.files import write_json
from tokenization_items.text_statistics import TF_IDF, TextStatistics, content_of_texts
from trainers.arguments import parse_sections
from trainers.data.domains import Domain, check_trainable
from trainers.data.item_brands import item_brands
from trainers.embedding_tokenizer_trainer import EmbeddingTokenizerTrainingArguments
from trainers.evaluation.comparison import ALONE, WITH_MEMORY, compare, short_table, untrained_rankers
from trainers.evaluation.protocol import check_cases
from trainers.evaluation.significance import BOOTSTRAP_SAMPLES
from trainers.hub.download import find_model
from trainers.hub.model_facts import memory_facts
from trainers.methods.baselines import (
    DECODER,
    GIVEN,
    ITEM_LEVEL,
    NAMES,
    ItemEmbeddings,
    NotApplicable,
    TrainedBaseline,
    inputs_of,
    make_semantic_ids,
    semantic_ids_of,
    train_generative_baseline,
    train_sequential_baseline,
)
from trainers.methods.item_level import ItemLevelArguments, ItemLevelTrainingArguments, set_item_content
from trainers.methods.memory import for_index
from trainers.methods.mixture_selection import choose_memory
from trainers.methods.plans import plan_generative_baseline, plan_item_level, plan_sequential, show_plans
from trainers.methods.published import ForeignArgument
from trainers.methods.runs import (
    check_output,
    finish_model,
    gathered_weights,
    place_training,
    save_recommender,
)
from trainers.methods.semantic_ids import SEMANTIC_IDS, SemanticIDArguments, given_semantic_ids
from trainers.methods.sequential import SequentialArguments, pretrained_folder
from trainers.methods.sequential_methods import SEQUENTIAL
from trainers.methods.shared_semantic_ids import semantic_ids_of_domain
from trainers.methods.utgrec import RecommenderArguments
from trainers.rankers import Ranker
from trainers.rankers.generative import GenerativeRanker
from trainers.rankers.sequential import SequentialRanker
from trainers.ranking_trainer import check_validated
from trainers.recommender_trainer import RecommenderTrainingArguments
from trainers.runtime.run_file import run_values
from trainers.sequential_trainer import SequentialTrainingArguments

STAGES = [
    "checkpoints/recommender",
    "checkpoints/recommender-pretraining",  # S3-Rec's
    "tokenizer/training",
    "collaborative-embeddings-seed-*/sasrec/checkpoints",
    "collaborative-embeddings-seed-*",
]
SECTIONS: dict[str, tuple[type, ...]] = {
    "sequential": (SequentialArguments, SequentialTrainingArguments),
    "tokenizer": (SemanticIDArguments, EmbeddingTokenizerTrainingArguments),
    "recommender": (RecommenderArguments, RecommenderTrainingArguments),
    "item_level": (ItemLevelArguments, ItemLevelTrainingArguments),
}


SHOWN = (
    "model",
    "data",
    "output_dir",
    "text_encoder",
    "embeddings",
    "semantic_ids",
    "pretrained",
    "revision",
    "minutes",
    "memory",
    "resume",
    "dry_run",
    "push_to_hub",
    "seed",
    "recommender.d_model",
    "recommender.num_layers",
    "recommender.causal_encoder",
    "recommender.num_train_epochs",
)


@dataclass
class TrainBaselineArguments:
    model: str = field(
        metadata={
            "help": f"What to train: {', '.join([*SEQUENTIAL, *SEMANTIC_IDS])}; after semantic IDs, "
            f"{DECODER} or {ITEM_LEVEL} in the T5's place; {GIVEN} for --semantic_ids."
        }
    )
    data: str = field(metadata={"help": "Data folder with items and interactions."})
    output_dir: str = field(metadata={"help": "Where the results go."})
    semantic_ids: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of an item tokenizer, as UTGRec's, whose semantic IDs item-level is on."},
    )
    text_encoder: str | None = field(
        default=None, metadata={"help": "Hub id or folder of what reads the items' texts, or tf-idf."}
    )
    embeddings: str | None = field(default=None, metadata={"help": "Folder of text embeddings, instead."})
    image_encoder: str | None = field(default=None, metadata={"help": "Hub id or folder, for tiger-m."})
    image_embeddings: str | None = field(default=None, metadata={"help": "Folder of image embeddings, instead."})
    pretrained: str | None = field(
        default=None,
        metadata={"help": "Output folder or Hub id of pretrain, for what reads content."},
    )
    revision: str | None = field(
        default=None, metadata={"help": "Of --semantic_ids or --pretrained on the Hub: branch, tag, commit."}
    )
    train_users: float = field(
        default=1.0, metadata={"help": "Share of the users whose training interactions are used."}
    )
    minutes: float | None = field(default=None, metadata={"help": "Most time of the recommender's training."})
    k_core: int = field(default=0, metadata={"help": "Keep users and items with so many interactions; 0: all."})
    mask_seen: bool = field(default=False, metadata={"help": "Never recommend items of the history, in the test."})
    memory: bool = field(
        default=False, metadata={"help": "Give a generative one a memory, chosen on validation, and judge both."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint of each stage."})
    allow_partial_resume: bool = field(
        default=False,
        metadata={"help": "With --resume: go on though the optimizer's or the random numbers' state is lost."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Train anew though the output folder holds a model, and replace it."}
    )
    allow_collapsed_codes: bool = field(
        default=False, metadata={"help": "Take semantic IDs though nearly all items share their codes with another."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Check data and flags, say sizes, steps and memory, and stop."}
    )
    push_to_hub: bool = field(default=False, metadata={"help": "Push the recommender, at every save and at the end."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Where to; default: the output folder's name."})
    license: str | None = field(default=None, metadata={"help": "Licence of the model, for its card."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and training."})
    name: str | None = field(default=None, metadata={"help": "The model's name in results.json."})

    def __post_init__(self) -> None:
        if self.model not in NAMES:
            raise SystemExit(f"--model {self.model}: there are {', '.join(NAMES)}.")
        if self.minutes is not None and not self.minutes > 0:
            raise SystemExit(f"--minutes is a time, got {self.minutes:g}.")
        if (self.model == GIVEN) != (self.semantic_ids is not None):
            raise SystemExit(f"--semantic_ids is what --model {GIVEN} recommends by: give both or neither.")
        reads_content = self.model.endswith((ITEM_LEVEL, GIVEN))
        if self.model in SEQUENTIAL:
            reads_content = bool(SEQUENTIAL[self.model].inputs)
        if self.pretrained is not None and not reads_content:
            raise SystemExit(f"--pretrained is for models that read content, and {self.model} does not.")
        if self.revision is not None and self.pretrained is None and self.semantic_ids is None:
            raise SystemExit("--revision is of --semantic_ids or --pretrained: there is neither.")
        if not 0 < self.train_users <= 1:
            raise SystemExit(f"--train_users is a share above 0 and up to 1, got {self.train_users:g}.")
        if self.memory and self.model in SEQUENTIAL:
            raise SystemExit(f"--memory is for recommenders that generate, and {self.model} does not.")


def run(
    arguments: TrainBaselineArguments,
    sequential: SequentialArguments,
    sequential_training: SequentialTrainingArguments,
    tokenizer: SemanticIDArguments,
    tokenizer_training: EmbeddingTokenizerTrainingArguments,
    recommender: RecommenderArguments,
    recommender_training: RecommenderTrainingArguments,
    item_level: ItemLevelArguments,
    item_level_training: ItemLevelTrainingArguments,
) -> list[dict[str, Any]] | None:
    """Trains, saves and evaluates; returns the rows of `results.json` on the main process."""
    output, state = Path(arguments.output_dir), PartialState()
    told = run_values(
        arguments,
        sequential=(sequential, sequential_training),
        tokenizer=(tokenizer, tokenizer_training),
        recommender=(recommender, recommender_training),
        item_level=(item_level, item_level_training),
    )
    at_item_level = arguments.model.endswith((ITEM_LEVEL, GIVEN))
    generative: RecommenderArguments | ItemLevelArguments = item_level if at_item_level else recommender
    generative_training = item_level_training if at_item_level else recommender_training
    training = sequential_training if arguments.model in SEQUENTIAL else generative_training
    if arguments.push_to_hub:
        training.push_to_hub = True
        training.hub_model_id = arguments.hub_model_id or output.absolute().name
    place_training(training, output / "checkpoints" / "recommender", arguments.seed)
    # a model on the Hub that cannot be had is known before there is any work
    pretrained = semantic_ids = None
    if arguments.pretrained is not None:
        pretrained = pretrained_folder(arguments.pretrained, arguments.revision)
        makes_ids = at_item_level and arguments.semantic_ids is None
        if makes_ids and not (Path(arguments.pretrained) / "tokenizer").is_dir():
            raise SystemExit(
                f"--pretrained {arguments.pretrained}: there is no item tokenizer in it that gives the items semantic "
                f"IDs. Give the output folder of `utgrec pretrain --model {arguments.model}`."
            )
    if arguments.semantic_ids is not None:
        semantic_ids = find_model(arguments.semantic_ids, arguments.revision)
    domain = Domain.from_folder(arguments.data, arguments.k_core, check_images=False)
    if arguments.train_users < 1:
        few = domain.interactions.sample_training_users(arguments.train_users, arguments.seed)
        domain = replace(domain, interactions=few)
    state.print(domain)
    check_parts(domain, arguments.memory)
    check_validated(domain.interactions, training, domain.name)
    sequential_training.seed = arguments.seed
    embeddings = ItemEmbeddings(
        domain,
        output,
        arguments.text_encoder,
        arguments.image_encoder,
        arguments.embeddings,
        arguments.image_embeddings,
        sequential_training,
        sequential.early_stopping_patience,
        arguments.minutes,
        arguments.resume,
    )
    # what it is compared with, and an item-level one, read texts too
    reads_text = has_text(arguments) or (at_item_level and item_level.content)
    embeddings.check(inputs_of(arguments.model) + (("text",) if reads_text else ()))
    if arguments.model in SEQUENTIAL:
        sequential.architecture(SEQUENTIAL[arguments.model].config_class)  # what it lacks is known before the work
    trainings = (sequential_training, tokenizer_training, recommender_training, item_level_training)
    check_output(arguments, ["results.json", "recommender"], STAGES, trainings, ("train-baseline", told))
    if arguments.dry_run:
        if arguments.model in SEQUENTIAL:
            plans = plan_sequential(arguments.model, domain, sequential, sequential_training)
        elif at_item_level and pretrained is not None:
            plans = plan_item_level([domain], item_level_training)
        else:
            sections = tokenizer, tokenizer_training, generative, generative_training
            plans = plan_generative_baseline(arguments.model, domain, *sections, semantic_ids)
        show_plans(plans)
        return None
    if reads_text:
        _ = embeddings.text  # by every process; an encoder that cannot be had is known before a training
    if arguments.model in SEQUENTIAL:
        baseline = train_sequential_baseline(
            arguments.model,
            domain,
            sequential,
            sequential_training,
            arguments.minutes,
            arguments.resume,
            embeddings,
            pretrained,
        )
    else:
        if semantic_ids is not None:
            items = given_semantic_ids(
                semantic_ids.name, embeddings.item_ids, output / "tokenizer", semantic_ids.revision
            )
        elif arguments.pretrained is not None:
            items = semantic_ids_of_domain(
                arguments.pretrained, embeddings.item_ids, embeddings.text, output / "tokenizer"
            )
        else:
            tokenized_by = semantic_ids_of(arguments.model)
            items = make_semantic_ids(
                tokenized_by,
                embeddings,
                output / "tokenizer",
                tokenizer_training,
                arguments.seed,
                arguments.resume,
                allow_collapsed=arguments.allow_collapsed_codes,
                **tokenizer.given(tokenized_by),
            )
        if at_item_level and item_level.content:
            encoder = embeddings.text_encoder_fingerprint(fitted=True)
            set_item_content(items.tokenizer.index, embeddings.item_ids, embeddings.text, encoder)
        baseline = train_generative_baseline(
            arguments.model,
            domain,
            items,
            generative,
            generative_training,
            tokenizer_training,
            arguments.minutes,
            arguments.resume,
            pretrained,
        )
    weights = gathered_weights(baseline.trainer)
    if not state.is_main_process:
        return None
    own_ids = domain.interactions.item_ids if baseline.tokenizer is None else None
    save_recommender(baseline.model, baseline.tokenizer, output / "recommender", weights, own_ids)
    facts: dict[str, Any] = {"license": arguments.license}
    if arguments.memory:
        facts |= remember(baseline, domain, embeddings, arguments, generative_training.num_beams)
    rows = judge(baseline, domain, embeddings, arguments, generative_training.num_beams)
    write_json(output / "results.json", rows)
    judged = rows[: 1 + arguments.memory]
    facts["evaluations"] = [Evaluation.from_result(domain.name, row) for row in judged]
    shown = short_table(rows)
    facts["comparison"] = shown
    if baseline.tokenizer is not None:
        facts["num_items"] = len(baseline.tokenizer)
    finish_model(baseline.trainer, output / "recommender", facts)
    print(markdown_table(shown))
    return rows


def check_parts(domain: Domain, memory: bool) -> None:
    """Stops what would come to nothing after a training: there is nothing to train on, no test item, or no validation
    item by which a memory is chosen."""
    check_trainable([domain])
    check_cases(domain.interactions)
    if memory and not len(domain.interactions.cases("validation")):
        raise SystemExit(f"{domain.name}: --memory is chosen on validation items, and the split has none.")


def remember(
    baseline: TrainedBaseline,
    domain: Domain,
    embeddings: ItemEmbeddings,
    arguments: TrainBaselineArguments,
    num_beams: int,
) -> dict[str, Any]:
    """Gives the model that was saved a memory, and returns what its card says of it."""
    assert baseline.tokenizer is not None
    folder, interactions = Path(arguments.output_dir) / "recommender", domain.interactions
    ranker = GenerativeRanker.from_pretrained(folder, interactions.item_ids, num_beams=num_beams, memory=False)
    content: np.ndarray | None
    if has_text(arguments):
        content, name, encoder = embeddings.text, "embeddings", embeddings.text_encoder_fingerprint()
    else:
        content, name, encoder = content_of_texts(domain.catalogue.texts), TF_IDF, TextStatistics().fingerprint
    brands = item_brands(domain.catalogue)
    stored = choose_memory(ranker, interactions, content, folder=domain.folder, brands=brands)
    if stored.memory.settings.content_weight:
        stored.facts |= {"content": name, "content_encoder": encoder}
    index = baseline.tokenizer.index
    for_index(stored, interactions.item_ids, index).save(folder, index)
    return memory_facts(stored)


def has_text(arguments: TrainBaselineArguments) -> bool:
    """Whether there are embeddings of the texts, or they can be made."""
    return arguments.embeddings is not None or arguments.text_encoder is not None


def judge(
    baseline: TrainedBaseline,
    domain: Domain,
    embeddings: ItemEmbeddings,
    arguments: TrainBaselineArguments,
    num_beams: int,
) -> list[dict[str, Any]]:
    """Test results of the model that was saved, and of what needs no training."""
    folder, item_ids = Path(arguments.output_dir) / "recommender", domain.interactions.item_ids
    model: Ranker
    if baseline.tokenizer is None:
        model = SequentialRanker.from_pretrained(folder, item_ids)
    else:
        model = GenerativeRanker.from_pretrained(folder, item_ids, num_beams=num_beams, memory=False)
    content = embeddings.text if has_text(arguments) else None
    judged = (domain.name, domain.interactions, arguments.seed)
    protocol: dict[str, Any] = {"mask_seen": arguments.mask_seen, "intervals": BOOTSTRAP_SAMPLES}
    name = arguments.name or arguments.model
    models = {name: model}
    if arguments.memory:
        models[f"{name} with memory"] = GenerativeRanker.from_pretrained(folder, item_ids, num_beams=num_beams)
    rows = compare(models, *judged, **protocol, identifiers=baseline.raw_codes)
    for row, kind in zip(rows, (ALONE, WITH_MEMORY), strict=False):
        row["description"] = baseline.description
        if arguments.memory:
            row["recommender"] = kind
    others = untrained_rankers(domain.interactions, content, domain.catalogue.texts)
    return [*rows, *compare(others, *judged, **protocol)]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    arguments, *sections = parse_sections(TrainBaselineArguments, SECTIONS, __doc__, argv, SHOWN, "baseline")
    try:
        run(arguments, *sections)
    except (NotApplicable, ForeignArgument) as reason:
        raise type(reason)(f"--model {arguments.model}: {reason}") from reason
