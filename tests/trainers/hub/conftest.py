"""Stand-ins of serving engines: the base classes of their logits processors, and what they are called with."""

import sys
from dataclasses import dataclass, field
from enum import Enum, auto
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: list[int]
    added: list[tuple]
    moved: list[tuple]


@dataclass
class SamplingParams:
    extra_args: dict[str, Any] | None = None


@dataclass
class Req:
    origin_input_ids: list[int]
    output_ids: list[int] = field(default_factory=list)


def install(monkeypatch: pytest.MonkeyPatch, module: str, plugin: str, **contents: Any) -> None:
    """Makes a module importable, and the plug-in that is built on it be imported anew."""
    stand_in = ModuleType(module)
    vars(stand_in).update(contents)
    monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.delitem(sys.modules, plugin, raising=False)


@pytest.fixture
def vllm(monkeypatch):
    """`vllm.v1.sample.logits_processor`, with what an engine gives to its classes."""
    base = type("LogitsProcessor", (), {})
    contents = {"LogitsProcessor": base, "MoveDirectionality": MoveDirectionality, "BatchUpdate": BatchUpdate}
    install(monkeypatch, "vllm.v1.sample.logits_processor", "trainers.hub.vllm_items", **contents)

    def config(model: str) -> SimpleNamespace:
        return SimpleNamespace(model_config=SimpleNamespace(model=model, revision=None))

    return SimpleNamespace(**contents, SamplingParams=SamplingParams, config=config)


@pytest.fixture
def vllm_v2(monkeypatch):
    """`vllm.v1.worker.gpu.sample.logits_processor.interface`, with the states that a model runner shares."""
    install(
        monkeypatch,
        "vllm.v1.worker.gpu.sample.logits_processor.interface",
        "trainers.hub.vllm_items_v2",
        LogitsProcessor=type("LogitsProcessor", (), {}),
    )

    def states(slots: int, longest: int) -> SimpleNamespace:
        return SimpleNamespace(
            device=torch.device("cpu"),
            max_num_reqs=slots,
            all_token_ids=SimpleNamespace(gpu=torch.zeros(slots, longest, dtype=torch.int32)),
            prompt_len=SimpleNamespace(np=np.zeros(slots, dtype=np.int32)),
        )

    return SimpleNamespace(states=states, SamplingParams=SamplingParams)


@pytest.fixture
def sglang(monkeypatch):
    """`sglang.srt.sampling.custom_logit_processor`, with the requests that an engine has."""
    base = type("CustomLogitProcessor", (), {})
    install(
        monkeypatch,
        "sglang.srt.sampling.custom_logit_processor",
        "trainers.hub.sglang_items",
        CustomLogitProcessor=base,
    )
    return SimpleNamespace(Req=Req)
