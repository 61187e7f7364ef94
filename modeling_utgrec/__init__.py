"""Networks of UTGRec and of its baselines, their quantizers, and generation constrained to the items that exist.

Importing this package registers the networks with transformers' Auto classes. The files travel with every checkpoint,
so `trust_remote_code=True` loads it where this package is not installed.

With the environment variable `UTGREC_FAST_CPU=1`, [`fast_cpu`], generation on a CPU is faster by means that code which
travels to other people's machines leaves alone unless they ask for it. It is off by default.
"""
# ruff: noqa: F401 (what is imported here is what the package exports)

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
)

# The table of the package: a name that is imported here is exported, a network registered with the Auto classes too.
from .configuration_bert4rec import BERT4RecConfig
from .configuration_bsarec import BSARecConfig
from .configuration_fdsa import FDSAConfig
from .configuration_fmlprec import FMLPRecConfig
from .configuration_gru4rec import GRU4RecConfig
from .configuration_hstu import HSTUConfig
from .configuration_item_level import ItemLevelConfig
from .configuration_missrec import MISSRecConfig
from .configuration_recbase import RecBaseConfig
from .configuration_recbase_tokenizer import RecBaseTokenizerConfig
from .configuration_rqvae import RQVAEConfig
from .configuration_s3rec import S3RecConfig
from .configuration_sasrec import SASRecConfig
from .configuration_sequential import SequentialConfig
from .configuration_unisrec import UniSRecConfig
from .configuration_utgrec import UTGRecConfig
from .configuration_utgrec_tokenizer import UTGRecTokenizerConfig
from .configuration_vqrec import VQRecConfig
from .generation_items import ItemLogitsProcessor, RecommendOutput, generate_items
from .generation_layers import fast_cpu
from .generation_memory import ItemSources
from .generation_rules import ItemRules
from .item_memory import ItemMemory
from .item_trie import ItemTrie
from .memory_content import MemoryContent
from .memory_settings import MemorySettings
from .modeling_bert4rec import BERT4RecForNextItem, BERT4RecModel
from .modeling_bsarec import BSARecForNextItem, BSARecModel
from .modeling_fdsa import FDSAForNextItem, FDSAModel
from .modeling_fmlprec import FMLPRecForNextItem, FMLPRecModel
from .modeling_gru4rec import GRU4RecForNextItem, GRU4RecModel
from .modeling_hstu import HSTUForNextItem, HSTUModel
from .modeling_item_level import ItemLevelForCausalLM, ItemLevelOutput
from .modeling_missrec import MISSRecForNextItem, MISSRecForPreTraining, MISSRecModel
from .modeling_recbase import RecBaseForCausalLM
from .modeling_recbase_tokenizer import RecBaseTokenizerModel, RecBaseTokenizerOutput
from .modeling_rqvae import RQVAEModel, RQVAEOutput
from .modeling_s3rec import S3RecForNextItem, S3RecForPreTraining, S3RecModel
from .modeling_sasrec import SASRecForNextItem, SASRecModel
from .modeling_sequential import NextItemOutput, SequentialForNextItem
from .modeling_unisrec import UniSRecForNextItem, UniSRecForPreTraining, UniSRecModel
from .modeling_utgrec import UTGRecForConditionalGeneration
from .modeling_utgrec_tokenizer import UTGRecTokenizerModel, UTGRecTokenizerOutput
from .modeling_vqrec import VQRecForNextItem, VQRecForPreTraining, VQRecModel
from .quantization import code_usage

# The Auto classes that load a network are told by the end of its name, as in transformers; a checkpoint names the last
# of them. Of a sequential recommender the encoder is the AutoModel, the next-item head the AutoModelForCausalLM (items
# are its vocabulary), whether or not the encoder reads in one direction only.
_AUTO_CLASSES = {
    "Model": (AutoModel,),
    "ForNextItem": (AutoModelForCausalLM,),
    "ForPreTraining": (AutoModelForPreTraining,),
    "ForCausalLM": (AutoModel, AutoModelForCausalLM),
    "ForConditionalGeneration": (AutoModel, AutoModelForSeq2SeqLM),
}

__all__ = sorted(
    name for name, value in globals().items() if getattr(value, "__module__", "").startswith(f"{__name__}.")
)

for _model in [globals()[name] for name in __all__]:
    _config = getattr(_model, "config_class", None)
    if _config is None or not _config.model_type:  # no network, or the base of some
        continue
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _config.register_for_auto_class()
    for _auto_class in next(each for end, each in _AUTO_CLASSES.items() if _model.__name__.endswith(end)):
        _auto_class.register(_config, _model, exist_ok=True)
        _model.register_for_auto_class(_auto_class)
