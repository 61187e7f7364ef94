"""A pre-training from the command line that pushes, and what others do with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel, AutoModelForSeq2SeqLM

from modeling_utgrec import UTGRecForConditionalGeneration, UTGRecTokenizerModel
from tokenization_items import UniversalItemTokenizer
from trainers.data.synthetic import PRETRAINING_DOMAINS, write_all

ROOT = Path(__file__).parents[3]
TINY = """
tokenizer:
  autoencoder: none
  root_codebook_size: 8
  leaf_codebook_size: 8
  codebook_dim: 8
  codebook_warmup_steps: 1
  adapter_hidden_size: 16
  max_text_tokens: 12
  num_train_epochs: 1
  save_strategy: epoch
  hub_always_push: true
  use_cpu: true
recommender:
  d_model: 16
  d_ff: 16
  d_kv: 8
  num_heads: 2
  num_layers: 1
  num_beams: 10
  num_train_epochs: 1
  per_device_train_batch_size: 128
  save_strategy: epoch
  hub_always_push: true
  use_cpu: true
"""


@pytest.mark.slow
@pytest.mark.hub
def test_accelerate_launch_pretrain_push_to_hub(hub, tiny_bert, tmp_path):
    tiny_bert[0].push_to_hub(backbone_id := hub.new_repo("backbone"))
    tiny_bert[1].push_to_hub(backbone_id)
    (tmp_path / "tiny.yaml").write_text(TINY)
    write_all(tmp_path / "data", num_items=64, num_users=20)
    tokenizer_id, recommender_id = hub.new_repo("run-tokenizer"), None
    name = tokenizer_id.removesuffix("-tokenizer")
    recommender_id = f"{name}-recommender"
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "examples/pretrain.py"]
    command += ["--config", tmp_path / "tiny.yaml", "--data", tmp_path / "data" / PRETRAINING_DOMAINS[0]]
    command += ["--output_dir", tmp_path / "run", "--push_to_hub", "--hub_model_id", name]
    command += ["--tokenizer.backbone", backbone_id]
    process = subprocess.run([str(part) for part in command], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    try:
        network = AutoModel.from_pretrained(tokenizer_id)
        assert type(network) is UTGRecTokenizerModel
        config = network.config
        commit = HfApi().list_repo_commits(backbone_id)[0].commit_id
        assert (config.backbone_name_or_path, config.backbone_revision) == (backbone_id, commit)
        tokenizer = UniversalItemTokenizer.from_pretrained(tokenizer_id)
        assert torch.equal(tokenizer.network.quantizer.root.codes, network.quantizer.root.codes)
        model = AutoModelForSeq2SeqLM.from_pretrained(recommender_id)
        assert type(model) is UTGRecForConditionalGeneration
        tokenizer.check_recommender(model)
        for repo_id in (tokenizer_id, recommender_id):
            messages = [commit.title for commit in HfApi().list_repo_commits(repo_id)]
            assert any("in progress" in message for message in messages), messages
            files = set(HfApi().list_repo_files(repo_id))
            assert {"README.md", "config.json", "model.safetensors"} <= files
            assert not [file for file in files if file.endswith((".bin", ".pt"))]
    finally:
        HfApi().delete_repo(recommender_id, missing_ok=True)
