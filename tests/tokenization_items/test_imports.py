"""The cost of `import tokenization_items`: none of the libraries that only some of its uses need."""

import subprocess
import sys

import pytest

HEAVY = (
    "datasets",
    "diffusers",
    "faiss",
    "matplotlib",
    "pandas",
    "peft",
    "polars",
    "pyarrow",
    "sentence_transformers",
)


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """Packages that the import loads beyond those of transformers' own Auto classes and pipelines."""
    code = (
        "import sys, torch, transformers.pipelines\n"
        "from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer\n"
        "before = set(sys.modules)\n"
        "import tokenization_items\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_wait_until_they_are_used(library, loaded):
    assert "tokenization_items" in loaded and library not in loaded
