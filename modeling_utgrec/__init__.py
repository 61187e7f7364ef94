"""Networks and tensors of UTGRec. Importing this package registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from .configuration_utgrec import UTGRecConfig
from .configuration_utgrec_tokenizer import UTGRecTokenizerConfig
from .generation_items import ItemLogitsProcessor
from .item_trie import ItemTrie
from .modeling_utgrec import RecommendOutput, UTGRecForConditionalGeneration
from .modeling_utgrec_tokenizer import UTGRecTokenizerModel, UTGRecTokenizerOutput
from .quantization import code_usage

AutoConfig.register("utgrec", UTGRecConfig, exist_ok=True)
AutoConfig.register("utgrec_tokenizer", UTGRecTokenizerConfig, exist_ok=True)
AutoModel.register(UTGRecTokenizerConfig, UTGRecTokenizerModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(UTGRecConfig, UTGRecForConditionalGeneration, exist_ok=True)

__all__ = [
    "ItemLogitsProcessor",
    "ItemTrie",
    "RecommendOutput",
    "UTGRecConfig",
    "UTGRecForConditionalGeneration",
    "UTGRecTokenizerConfig",
    "UTGRecTokenizerModel",
    "UTGRecTokenizerOutput",
    "code_usage",
]
