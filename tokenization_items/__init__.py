"""Items and their semantic IDs. Importing the package registers them with transformers' Auto classes and pipelines."""

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_utgrec import ItemLevelConfig, RecBaseConfig, UTGRecConfig, UTGRecTokenizerConfig
from tokenization_items.catalogue import Catalogue, CatalogueError
from tokenization_items.catalogue_updates import CatalogueUpdate
from tokenization_items.collision_report import AssignmentReport
from tokenization_items.collisions import CapacityError
from tokenization_items.item_embeddings import ContentEmbeddings
from tokenization_items.item_index import ItemIndex, ItemIndexError, UnknownItemError
from tokenization_items.item_memory import ItemMemoryError, StoredMemory
from tokenization_items.pipeline_item_recommendation import ItemRecommendationPipeline
from tokenization_items.processing_content import ContentProcessor, EmbeddingProcessor, EncoderMismatchError
from tokenization_items.processing_items import ItemProcessor
from tokenization_items.sharded_index import ShardedItemIndex
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_template import TextTemplate
from tokenization_items.tokenization_items import TokenizerMismatchError, UniversalItemTokenizer

AutoProcessor.register(UTGRecTokenizerConfig, ItemProcessor, exist_ok=True)
for _config in (UTGRecConfig, RecBaseConfig, ItemLevelConfig):
    AutoTokenizer.register(_config, UniversalItemTokenizer, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "item-recommendation",
    pipeline_class=ItemRecommendationPipeline,
    pt_model=(AutoModelForSeq2SeqLM, AutoModelForCausalLM),  # type: ignore[arg-type]  # `tuple[type]` there
)

__all__ = [
    "AssignmentReport",
    "CapacityError",
    "Catalogue",
    "CatalogueError",
    "CatalogueUpdate",
    "ContentEmbeddings",
    "ContentProcessor",
    "EmbeddingProcessor",
    "EncoderMismatchError",
    "ItemIndex",
    "ItemIndexError",
    "ItemMemoryError",
    "ItemProcessor",
    "ItemRecommendationPipeline",
    "ShardedItemIndex",
    "StoredMemory",
    "TextEncoder",
    "TextTemplate",
    "TokenizerMismatchError",
    "UniversalItemTokenizer",
    "UnknownItemError",
]
