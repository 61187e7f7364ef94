"""Gives a generative recommender a memory of transitions and content, chosen on validation, and evaluates both.

python examples/memory.py --recommender runs/office/recommender --data data/office --embeddings runs/office-texts
python examples/memory.py --recommender runs/office/recommender --data data/office-today --update --all_interactions
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("memory")
