"""Model cards for the Hub, written from measured values: plain values in, text out."""

from .cards import (
    UTGREC_CITATION,
    CardValues,
    Evaluation,
    RecommenderCardValues,
    TokenizerCardValues,
    render_recommender_card,
    render_tokenizer_card,
    write_card,
)

__all__ = [
    "UTGREC_CITATION",
    "CardValues",
    "Evaluation",
    "RecommenderCardValues",
    "TokenizerCardValues",
    "render_recommender_card",
    "render_tokenizer_card",
    "write_card",
]
