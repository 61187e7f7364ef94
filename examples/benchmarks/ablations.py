"""UTGRec with what its paper takes away from it, one thing at a time: pre-trained on other domains and fine-tuned on
one by the commands that do so, the recipes of `quality.py --ablations`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recipes import RECOMMENDER, NotApplicable, Setting, TrainedRanker, recommender_training, utgrec_settings

from hub_cards import load_values
from modeling_utgrec import UTGRecTokenizerConfig
from tokenization_items.text_statistics import TF_IDF
from trainers.commands import finetune, pretrain
from trainers.methods import utgrec
from trainers.methods.baselines import recommender_settings
from trainers.methods.published import describe, settings_of
from trainers.rankers.generative import GenerativeRanker


@dataclass(frozen=True)
class Ablation:
    """
    What a row of the paper's table does without.

    Args:
        words: for the table.
        network: values of the item tokenizer's network in pre-training, where they are others.
        tokenizer_mode, new_recommender: as `utgrec finetune`.
        pretrained: whether there is any pre-training.
    """

    words: str
    network: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_mode: Literal["finetune", "frozen", "full"] = "finetune"
    new_recommender: bool = False
    pretrained: bool = True


# Zheng et al. 2025, the ablation study: the whole, and what is left out of it.
ABLATIONS: dict[str, Ablation] = {
    "utgrec-whole": Ablation("pre-trained on other domains, fine-tuned with C frozen"),
    "utgrec-no-tree": Ablation("a codebook for each level, residual quantization", {"codebook_structure": "residual"}),
    "utgrec-no-alignment": Ablation("no alignment with co-occurring items", {"alignment_weight": 0.0}),
    "utgrec-no-co-reconstruction": Ablation("no reconstruction of them", {"co_reconstruction_weight": 0.0}),
    "utgrec-frozen-tokenizer": Ablation("item tokenizer not fine-tuned", tokenizer_mode="frozen"),
    "utgrec-full-fine-tuning": Ablation("all of the item tokenizer fine-tuned, C too", tokenizer_mode="full"),
    "utgrec-new-recommender": Ablation("recommender not pre-trained", new_recommender=True),
    "utgrec-no-pretraining": Ablation("nothing pre-trained", pretrained=False),
}


def ablation_recipe(name: str, setting: Setting) -> TrainedRanker:
    """A row of [`ABLATIONS`]. Backbone is the text encoder, without images; what rows share of the pre-training is
    made once for each seed. `Setting.minutes` is not for it: the sections' epochs are."""
    if not setting.pretraining:
        raise NotApplicable("Its pre-training needs other domains: give --pretraining_domains.")
    if setting.embeddings.text_encoder in (None, TF_IDF):
        raise NotApplicable("Its backbone is a text encoder: give --text_encoder.")
    ablation, domain = ABLATIONS[name], setting.domain
    assert domain.folder is not None  # a data folder was read
    network = dataclasses.replace(setting.network, backbone=str(setting.embeddings.text_encoder), autoencoder=None)
    network = dataclasses.replace(network, **ablation.network)
    training, recommender = recommender_training(setting)
    sections = (network, setting.tokenizer, recommender, training)
    source = pretrained_folder(ablation, setting, sections) if ablation.pretrained else None
    finetune.run(
        finetune.FinetuneArguments(
            data=[str(domain.folder)],
            output_dir=str(setting.folder),
            pretrained=None if source is None else str(source),
            tokenizer_mode=ablation.tokenizer_mode,
            new_recommender=ablation.new_recommender and source is not None,
            text_fields=list(domain.catalogue.text_fields),
            allow_collapsed_codes=True,  # how many collide is told
            resume=setting.resume,
            overwrite=not setting.resume,  # what a run that was stopped left: its line is not there
            seed=setting.seed,
            name=name,
        ),
        *copy.deepcopy(sections),
    )
    ranker = GenerativeRanker.from_pretrained(setting.folder / RECOMMENDER, setting.embeddings.item_ids)
    config = UTGRecTokenizerConfig.from_pretrained(setting.folder / "tokenizer")
    used = utgrec_settings(network, settings_of(config, setting.tokenizer, "tokenizer."))
    used |= {"tokenizer.pretrained_on_other_domains": source is not None}
    used |= recommender_settings(ranker.model, training)
    used["recommender.pretrained_on_other_domains"] = source is not None and not ablation.new_recommender
    found = assignment_of(setting.folder)
    description = describe(ranker.model, used, utgrec.PUBLISHED_TOKENIZER | utgrec.PUBLISHED_RECOMMENDER, found)
    description["variant"] = f"{ablation.words}; {description['variant']}"
    details = {"pretraining_domains": [Path(each).name for each in setting.pretraining], **found}
    return TrainedRanker(ranker, ranker.model.num_parameters(), details, description)


def pretrained_folder(ablation: Ablation, setting: Setting, sections: tuple[Any, ...]) -> Path:
    """Where a pre-training is, made if it is not there: rows whose networks are the same share it."""
    changed = [f"{key}-{value}" for key, value in ablation.network.items()]
    folder = setting.folder.parent / "-".join(["pretrained", *changed, "seed", str(setting.seed)])
    if not (folder / RECOMMENDER).is_dir():
        pretrain.run(
            pretrain.PretrainArguments(
                data=list(setting.pretraining),
                output_dir=str(folder),
                text_fields=list(setting.domain.catalogue.text_fields),
                allow_collapsed_codes=True,
                resume=setting.resume,
                overwrite=not setting.resume,
                seed=setting.seed,
            ),
            *copy.deepcopy(sections),
        )
    return folder


def assignment_of(folder: Path) -> dict[str, Any]:
    """How many items shared codes before collisions were resolved, as the recommender's card has it."""
    values = load_values(folder / RECOMMENDER)
    collided = getattr(values, "collisions", {}).get("Items whose codes collided")
    return {"items_sharing_codes": collided, "collisions": "least_distance"}
