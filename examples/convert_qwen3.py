"""Makes our recommender of a plain Qwen3 that generates semantic IDs, with its sid2pid.json.

python examples/convert_qwen3.py --model org/sid-model --sid2pid sid2pid.json --output_dir runs/theirs
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("convert-qwen3")
