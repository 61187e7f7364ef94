"""Exports a recommender for programs without our code: a plain Qwen3 with sid2pid.json, ONNX, or a custom_generate.

python examples/export.py runs/c-recbase/recommender --output_dir runs/plain
python examples/export.py runs/item-level/recommender --format onnx --output_dir runs/onnx
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("export")
