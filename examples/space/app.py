r"""A page that shows a recommender: recommendations with their sources, semantic IDs as a tree, new products, health.

    python examples/space/app.py runs/shop
    python examples/space/app.py org/shop-recommender --port 8000

`utgrec publish --space` makes a Space of the Hub of it.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("space")
