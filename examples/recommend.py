"""Recommends items to users with a fine-tuned recommender: ids, titles and scores.

python examples/recommend.py --recommender runs/office/recommender --history office-00017 office-00303
python examples/recommend.py --recommender runs/office/recommender --data data/builtin/office --users 3
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("recommend")
