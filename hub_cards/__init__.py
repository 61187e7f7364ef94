"""Cards for the Hub, written from measured values: plain values in, text and pictures out."""

from .cards import CARD_FILE, VALUES_FILE, load_values, render_card, save_card, values_text
from .citations import METHODS, Method, method_named
from .edits import CardError, is_edited
from .eval_results import EVAL_RESULTS_FILE, eval_results_text, write_eval_results
from .files import replacing, write_text
from .formatting import markdown_table
from .named import MAX_NAMED, listed, named
from .schema import check_card, is_repository
from .space_files import space_files
from .values import (
    Card,
    DatasetCardValues,
    Evaluation,
    ModelCardValues,
    RecommenderCardValues,
    SequentialCardValues,
    SpaceCardValues,
    TokenizerCardValues,
)

__all__ = [
    "CARD_FILE",
    "EVAL_RESULTS_FILE",
    "MAX_NAMED",
    "METHODS",
    "VALUES_FILE",
    "Card",
    "CardError",
    "DatasetCardValues",
    "Evaluation",
    "Method",
    "ModelCardValues",
    "RecommenderCardValues",
    "SequentialCardValues",
    "SpaceCardValues",
    "TokenizerCardValues",
    "check_card",
    "eval_results_text",
    "is_edited",
    "is_repository",
    "listed",
    "load_values",
    "markdown_table",
    "method_named",
    "named",
    "render_card",
    "replacing",
    "save_card",
    "space_files",
    "values_text",
    "write_eval_results",
    "write_text",
]
