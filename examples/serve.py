"""Serves a recommender over HTTP: recommendations, similar items, a catalogue that changes, metrics.

python examples/serve.py runs/shop
python examples/serve.py --model org/shop --revision v1 --host 0.0.0.0 --port 8000
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("serve")
