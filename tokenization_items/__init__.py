"""Items and their identifiers."""

from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.item_index import AssignmentReport, CapacityError, ItemIndex, ItemIndexError, UnknownItemError
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.tokenization_items import TokenizerMismatchError, UniversalItemTokenizer

__all__ = [
    "AssignmentReport",
    "CapacityError",
    "Catalogue",
    "CatalogueError",
    "ItemIndex",
    "ItemIndexError",
    "ItemProcessor",
    "TokenizerMismatchError",
    "UniversalItemTokenizer",
    "UnknownItemError",
]
