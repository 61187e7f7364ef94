"""Training and evaluation of recommenders: Trainers with their arguments, data, rankers, and the commands.

The names below are imported when they are used: `import trainers` takes neither torch nor transformers.
"""

import importlib
from typing import Any

_MODULES = {
    "Domain": "data.domains",
    "EmbeddingTokenizerTrainer": "embedding_tokenizer_trainer",
    "EmbeddingTokenizerTrainingArguments": "embedding_tokenizer_trainer",
    "GenerativeRanker": "rankers.generative",
    "Interactions": "data.interactions",
    "ItemTokenizerTrainer": "item_tokenizer_trainer",
    "ItemTokenizerTrainingArguments": "item_tokenizer_trainer",
    "ItemTransitions": "rankers.item_transitions",
    "NearestItems": "rankers.nearest_items",
    "Popularity": "rankers.popularity",
    "RecommendationRules": "methods.recommendation_rules",
    "Recommender": "methods.recommender",
    "RecommenderTrainer": "recommender_trainer",
    "RecommenderTrainingArguments": "recommender_trainer",
    "SequentialRanker": "rankers.sequential",
    "SequentialTrainer": "sequential_trainer",
    "SequentialTrainingArguments": "sequential_trainer",
    "TitleLikelihood": "rankers.title_likelihood",
    "evaluate": "evaluation.protocol",
    "load_domains": "data.domains",
    "load_ranker": "rankers",
    "read_products": "data.products",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
