"""The sequential baselines by name, with their authors' settings: from interactions alone SASRec, GRU4Rec, BERT4Rec,
FMLP-Rec, BSARec and HSTU, with what is known of the items FDSA, S3-Rec, UniSRec, VQ-Rec and MISSRec.

A new one is a configuration and a model in `modeling_utgrec`, and a row in `SEQUENTIAL`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modeling_utgrec import (
    BERT4RecConfig,
    BERT4RecForNextItem,
    BSARecConfig,
    BSARecForNextItem,
    FDSAConfig,
    FDSAForNextItem,
    FMLPRecConfig,
    FMLPRecForNextItem,
    GRU4RecConfig,
    GRU4RecForNextItem,
    HSTUConfig,
    HSTUForNextItem,
    MISSRecConfig,
    MISSRecForNextItem,
    S3RecConfig,
    S3RecForNextItem,
    SASRecConfig,
    SASRecForNextItem,
    SequentialConfig,
    SequentialForNextItem,
    UniSRecConfig,
    UniSRecForNextItem,
    VQRecConfig,
    VQRecForNextItem,
)
from trainers.methods.item_tables import MakesTables, field_tables, modality_tables, text_tables
from trainers.methods.product_quantizer import code_tables
from trainers.methods.published import Published
from trainers.methods.s3rec import pretrain_s3rec
from trainers.sequential_trainer import SequentialTrainer


@dataclass(frozen=True)
class SequentialMethod:
    """
    A sequential baseline.

    Args:
        config_class, model_class (`type`): of the model.
        published ([`Published`]): the authors' settings.
        variant (`Mapping[str, Any]`, *optional*): values of the configuration that make this row another one than the
            configuration's defaults.
        inputs (`tuple[str, ...]`, *optional*): what is to be known of the items, see [`ItemEmbeddings`].
        tables (`MakesTables`, *optional*): makes of it what the model's items are made from.
        pretraining (*optional*): trains the model on the domain before, see [`pretrain_s3rec`].
    """

    config_class: type[SequentialConfig]
    model_class: type[SequentialForNextItem]
    published: Published
    variant: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    tables: MakesTables | None = None
    pretraining: Callable[..., SequentialTrainer] | None = None


_BLOCKS = {"hidden_size": 64, "num_layers": 2, "hidden_dropout": 0.5, "max_history": 50, "learning_rate": 1e-3}
_SASREC = Published(
    "Kang & McAuley 2018, section IV-D, sparse data sets",
    {**_BLOCKS, "hidden_size": 50, "num_heads": 1, "attention_dropout": 0.5, "loss": "bce", "batch_size": 128},
)
_RECBOLE_ADAM = {"weight_decay": 0.0, "max_grad_norm": 0.0, "num_train_epochs": 300}
_FDSA = Published(
    "RUCAIBox/RecBole, properties/model/FDSA.yaml and overall.yaml, as read in 2026, with fields for features; the "
    "paper's loss is 'bce'",
    {
        **_BLOCKS,
        "num_heads": 2,
        "inner_size": 256,
        "attention_dropout": 0.5,
        "features": "fields",
        "loss": "ce",
        "output_dropout": 0.5,
        "batch_size": 2048,
        "batch_of": "pairs of a history and its next item",
        **_RECBOLE_ADAM,
    },
)
_S3REC = Published(
    "RUCAIBox/CIKM2020-S3Rec, run_pretrain.py and run_finetune_full.py, Amazon Beauty, as read in 2026",
    {
        **_BLOCKS,
        "num_heads": 2,
        "inner_size": 256,
        "attention_dropout": 0.5,
        "loss": "bce",
        "mask_ratio": 0.2,
        "attribute_weight": 0.2,
        "item_weight": 1.0,
        "masked_attribute_weight": 1.0,
        "segment_weight": 0.5,
        "two_sigmoids": True,
        "pretraining_epochs": 150,
        "batch_size": 256,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
    },
)
_UNISREC = Published(
    "RUCAIBox/UniSRec, props/UniSRec.yaml, props/finetune.yaml and overall.yaml, as read in 2026; pre-trained on five "
    "domains of Amazon 2018",
    {
        "hidden_size": 300,
        "num_layers": 2,
        "num_heads": 2,
        "inner_size": 256,
        "hidden_dropout": 0.5,
        "attention_dropout": 0.5,
        "content_dropout": 0.2,
        "num_experts": 8,
        "max_history": 50,
        "temperature": 0.07,
        "loss": "ce",
        "content_encoder": "bert-base-uncased",
        "learning_rate": 1e-3,
        "batch_size": 2048,
        "batch_of": "pairs of a history and its next item",
        "pretrained_on_other_domains": True,
        **_RECBOLE_ADAM,
    },
)
_VQREC = Published(
    "RUCAIBox/VQ-Rec, props/VQRec.yaml, props/finetune.yaml and overall.yaml, as read in 2026; pre-trained on five "
    "domains of Amazon 2018",
    {
        **{name: value for name, value in _UNISREC.settings.items() if name not in ("content_dropout", "num_experts")},
        "num_groups": 32,
        "codebook_size": 256,
        "learning_rate": 3e-3,
    },
)
_MISSREC = Published(
    "gimpong/MM23-MISSRec, props and overall.yaml, as read in 2026; pre-trained on five domains of Amazon 2018",
    {
        "hidden_size": 300,
        "num_layers": 2,
        "num_heads": 4,
        "inner_size": 256,
        "hidden_dropout": 0.5,
        "attention_dropout": 0.5,
        "max_history": 50,
        "temperature": 0.07,
        "content_encoder": "clip-vit-base-patch32",
        "image_encoder": "clip-vit-base-patch32",
        "num_interests": "half of the texts and images",
        "interest_weight": 1e-4,
        "interest_regularization": "pooled",
        "learning_rate": 1e-3,
        "batch_size": 512,
        "pretrained_on_other_domains": True,
        **_RECBOLE_ADAM,
    },
)
# Where a source is a file, each value was compared with it.
SEQUENTIAL: dict[str, SequentialMethod] = {
    "sasrec": SequentialMethod(SASRecConfig, SASRecForNextItem, _SASREC),
    "sasrec-bce": SequentialMethod(SASRecConfig, SASRecForNextItem, _SASREC, {"loss": "bce"}),
    "gru4rec": SequentialMethod(
        GRU4RecConfig,
        GRU4RecForNextItem,
        Published(
            "RUCAIBox/RecBole, properties/model/GRU4Rec.yaml and overall.yaml, which tables of later papers use; "
            "max_history not checked",
            {
                **_BLOCKS,
                "num_layers": 1,
                "hidden_dropout": 0.3,
                "state_size": 128,
                "loss": "ce",
                "batch_size": 2048,
                "weight_decay": 0.0,
                "num_train_epochs": 300,
            },
        ),
    ),
    "bert4rec": SequentialMethod(
        BERT4RecConfig,
        BERT4RecForNextItem,
        Published(
            "FeiSun/BERT4Rec, run_beauty.sh, bert_train/bert_config_beauty_64.json and optimization.py, Amazon Beauty",
            {
                **_BLOCKS,
                "num_heads": 2,
                "attention_dropout": 0.2,
                "mask_ratio": 0.6,
                "learning_rate": 1e-4,
                "lr_scheduler_type": "linear",
                "warmup_steps": 100,
                "weight_decay": 0.01,
                "max_grad_norm": 5.0,
                "batch_size": 256,
                "num_train_epochs": "400000 steps",
            },
        ),
    ),
    "fmlp-rec": SequentialMethod(
        FMLPRecConfig,
        FMLPRecForNextItem,
        Published(
            "Woeee/FMLP-Rec, main.py, trainers.py and output/FMLPRec-Beauty-4eval.txt, Amazon Beauty",
            {**_BLOCKS, "loss": "bce", "batch_size": 256, "weight_decay": 0.0, "num_train_epochs": 200},
        ),
    ),
    "bsarec": SequentialMethod(
        BSARecConfig,
        BSARecForNextItem,
        Published(
            "yehjin-shin/BSARec, README.md, src/utils.py and src/output/BSARec_Beauty_best.log, Amazon Beauty",
            {
                **_BLOCKS,
                "num_heads": 1,
                "attention_dropout": 0.5,
                "alpha": 0.7,
                "num_low_frequencies": 5,
                "loss": "ce",
                "learning_rate": 5e-4,
                "batch_size": 256,
                "weight_decay": 0.0,
                "num_train_epochs": 200,
            },
        ),
    ),
    "hstu": SequentialMethod(
        HSTUConfig,
        HSTUForNextItem,
        Published(
            "facebookresearch/generative-recommenders, configs/amzn-books/hstu-sampled-softmax-n512-final.gin",
            {
                **_BLOCKS,
                "num_layers": 4,
                "num_heads": 4,
                "temperature": 0.05,
                "loss": "sampled",
                "num_negatives": 512,
                "log_q_correction": False,
                "batch_size": 128,
                "weight_decay": 0.0,
                "num_train_epochs": 201,
            },
        ),
    ),
    "fdsa": SequentialMethod(FDSAConfig, FDSAForNextItem, _FDSA, inputs=("text",), tables=text_tables),
    "fdsa-fields": SequentialMethod(
        FDSAConfig, FDSAForNextItem, _FDSA, {"features": "fields"}, ("attributes",), field_tables
    ),
    "s3-rec": SequentialMethod(
        S3RecConfig, S3RecForNextItem, _S3REC, inputs=("attributes",), pretraining=pretrain_s3rec
    ),
    "s3-rec-scratch": SequentialMethod(S3RecConfig, S3RecForNextItem, _S3REC),
    "unisrec": SequentialMethod(UniSRecConfig, UniSRecForNextItem, _UNISREC, inputs=("text",), tables=text_tables),
    "unisrec-transductive": SequentialMethod(
        UniSRecConfig, UniSRecForNextItem, _UNISREC, {"transductive": True}, ("text",), text_tables
    ),
    "vq-rec": SequentialMethod(VQRecConfig, VQRecForNextItem, _VQREC, inputs=("text",), tables=code_tables),
    **{
        f"missrec{kind}{mode}": SequentialMethod(
            MISSRecConfig,
            MISSRecForNextItem,
            _MISSREC,
            {"transductive": bool(mode)},
            ("text", "images") if kind else ("text",),
            modality_tables,
        )
        for kind in ("", "-images")
        for mode in ("", "-transductive")
    },
}
