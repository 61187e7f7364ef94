"""The custom_generate repository in a process that has transformers and torch, and none of our packages."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import HfApi

from trainers.hub.custom_generate import export_custom_generate

STRANGER = """
import sys

for package in ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards"):
    sys.modules[package] = None  # importing it is an ImportError

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, T5Config, T5ForConditionalGeneration

torch.manual_seed(0)
qwen3 = Qwen3Config(vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                    num_key_value_heads=1, head_dim=8, initializer_range=0.3)
t5 = T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
codes = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(5))
sids = codes[torch.randperm(60)[:20]] + torch.tensor([5, 9, 12])
prompts = torch.randint(1, 30, (2, 6))
models = Qwen3ForCausalLM(qwen3).eval(), T5ForConditionalGeneration(t5).eval()
for name, model in ((name, model) for name in sys.argv[1:] for model in models):
    found = model.generate(
        input_ids=prompts, attention_mask=torch.ones_like(prompts), custom_generate=name,
        trust_remote_code=True, trie=sids, num_beams=20, num_return_sequences=20, length_penalty=0.0,
        return_dict_in_generate=True,
    )
    for user in range(2):
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                start = torch.nn.functional.pad(sids[:, :-1], (1, 0))
                logits = model(input_ids=prompts[user].expand(20, -1), decoder_input_ids=start).logits
            else:
                logits = model(torch.cat((prompts[user].expand(20, -1), sids[:, :-1]), 1)).logits[:, 5:]
        scores = logits.log_softmax(-1).gather(2, sids[..., None]).sum((1, 2))
        best = scores.sort(descending=True)
        torch.testing.assert_close(found.sequences_scores[20 * user : 20 * user + 20], best.values)
        assert torch.equal(found.sequences[20 * user : 20 * user + 20, -3:], sids[best.indices])
print("equal to brute force")
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("custom") / "items"
    export_custom_generate(folder)
    return folder


@pytest.mark.hub
def test_any_qwen3_and_t5_finds_items_without_our_packages(repository, hub, tmp_path):
    """From a folder and from the Hub, in one process, which takes seconds to start."""
    name, script = hub.new_repo("generate"), tmp_path / "stranger.py"
    HfApi().create_repo(name)
    HfApi().upload_folder(repo_id=name, folder_path=repository)
    script.write_text(STRANGER)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    run = subprocess.run(
        [sys.executable, str(script), str(repository), name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert run.stdout.strip() == "equal to brute force", run.stderr[-2000:]


def test_the_layout_is_that_of_transformers(repository):
    names = {path.name for path in (repository / "custom_generate").iterdir()}
    assert {"generate.py", "requirements.txt", "item_trie.py", "generation_qwen3.py", "generation_t5.py"} <= names
    assert not any("modeling_utgrec.gen" in path.read_text() for path in repository.rglob("*.py"))
    card = (repository / "README.md").read_text()
    assert "\n- custom_generate\n" in card.split("---")[1]


def test_nothing_else_is_replaced(repository, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        export_custom_generate(tmp_path)
    with pytest.raises(FileExistsError, match="not made by this"):
        export_custom_generate(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    before = (repository / "README.md").read_text()
    export_custom_generate(repository, overwrite=True)
    assert (repository / "README.md").read_text() == before
