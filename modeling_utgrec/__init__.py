"""Networks and tensors of UTGRec. Importing this package registers them with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from .configuration_bert4rec import BERT4RecConfig
from .configuration_bsarec import BSARecConfig
from .configuration_fmlprec import FMLPRecConfig
from .configuration_gru4rec import GRU4RecConfig
from .configuration_hstu import HSTUConfig
from .configuration_recbase import RecBaseConfig
from .configuration_recbase_tokenizer import RecBaseTokenizerConfig
from .configuration_rqvae import RQVAEConfig
from .configuration_sasrec import SASRecConfig
from .configuration_sequential import SequentialConfig
from .configuration_utgrec import UTGRecConfig
from .configuration_utgrec_tokenizer import UTGRecTokenizerConfig
from .generation_items import ItemLogitsProcessor, RecommendOutput, generate_items
from .generation_rules import ItemRules
from .item_trie import ItemTrie
from .modeling_bert4rec import BERT4RecForNextItem, BERT4RecModel
from .modeling_bsarec import BSARecForNextItem, BSARecModel
from .modeling_fmlprec import FMLPRecForNextItem, FMLPRecModel
from .modeling_gru4rec import GRU4RecForNextItem, GRU4RecModel
from .modeling_hstu import HSTUForNextItem, HSTUModel
from .modeling_recbase import RecBaseForCausalLM
from .modeling_recbase_tokenizer import RecBaseTokenizerModel, RecBaseTokenizerOutput
from .modeling_rqvae import RQVAEModel, RQVAEOutput
from .modeling_sasrec import SASRecForNextItem, SASRecModel
from .modeling_sequential import NextItemOutput, SequentialForNextItem
from .modeling_utgrec import UTGRecForConditionalGeneration
from .modeling_utgrec_tokenizer import UTGRecTokenizerModel, UTGRecTokenizerOutput
from .quantization import code_usage

# The Auto classes that load each configuration. Of a sequential recommender the encoder is the AutoModel, the
# next-item head the AutoModelForCausalLM (items are its vocabulary), whether or not the encoder reads in one direction
# only.
for _config, _models in (
    (BERT4RecConfig, {AutoModel: BERT4RecModel, AutoModelForCausalLM: BERT4RecForNextItem}),
    (BSARecConfig, {AutoModel: BSARecModel, AutoModelForCausalLM: BSARecForNextItem}),
    (FMLPRecConfig, {AutoModel: FMLPRecModel, AutoModelForCausalLM: FMLPRecForNextItem}),
    (GRU4RecConfig, {AutoModel: GRU4RecModel, AutoModelForCausalLM: GRU4RecForNextItem}),
    (HSTUConfig, {AutoModel: HSTUModel, AutoModelForCausalLM: HSTUForNextItem}),
    (RecBaseTokenizerConfig, {AutoModel: RecBaseTokenizerModel}),
    (RQVAEConfig, {AutoModel: RQVAEModel}),
    (RecBaseConfig, {AutoModel: RecBaseForCausalLM, AutoModelForCausalLM: RecBaseForCausalLM}),
    (SASRecConfig, {AutoModel: SASRecModel, AutoModelForCausalLM: SASRecForNextItem}),
    (UTGRecConfig, {AutoModel: UTGRecForConditionalGeneration, AutoModelForSeq2SeqLM: UTGRecForConditionalGeneration}),
    (UTGRecTokenizerConfig, {AutoModel: UTGRecTokenizerModel}),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _config.register_for_auto_class()
    for _auto_class, _model in _models.items():
        _auto_class.register(_config, _model, exist_ok=True)
        # The files of this package travel with a checkpoint: `trust_remote_code=True` loads it where there is no such
        # package, with the last of the Auto classes above.
        _model.register_for_auto_class(_auto_class)

__all__ = [
    "BERT4RecConfig",
    "BERT4RecForNextItem",
    "BERT4RecModel",
    "BSARecConfig",
    "BSARecForNextItem",
    "BSARecModel",
    "FMLPRecConfig",
    "FMLPRecForNextItem",
    "FMLPRecModel",
    "GRU4RecConfig",
    "GRU4RecForNextItem",
    "GRU4RecModel",
    "HSTUConfig",
    "HSTUForNextItem",
    "HSTUModel",
    "ItemLogitsProcessor",
    "ItemRules",
    "ItemTrie",
    "NextItemOutput",
    "RQVAEConfig",
    "RQVAEModel",
    "RQVAEOutput",
    "RecBaseConfig",
    "RecBaseForCausalLM",
    "RecBaseTokenizerConfig",
    "RecBaseTokenizerModel",
    "RecBaseTokenizerOutput",
    "RecommendOutput",
    "SASRecConfig",
    "SASRecForNextItem",
    "SASRecModel",
    "SequentialConfig",
    "SequentialForNextItem",
    "UTGRecConfig",
    "UTGRecForConditionalGeneration",
    "UTGRecTokenizerConfig",
    "UTGRecTokenizerModel",
    "UTGRecTokenizerOutput",
    "code_usage",
    "generate_items",
]
