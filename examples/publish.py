"""Publishes an item tokenizer, a recommender and their data together, each in a repository of its own.

Without --push nothing leaves this machine: files and sizes are listed, cards are written in memory and checked.

    python examples/publish.py --name org/office --tokenizer runs/office/tokenizer \
        --recommender runs/office/recommender --data data/office --license apache-2.0
    python examples/publish.py --name org/office --tokenizer runs/office/tokenizer \
        --recommender runs/office/recommender --data data/office --license apache-2.0 --push

The repositories are org/office-tokenizer, org/office-recommender and org/office-data, and private unless --public is
given. Log in with `hf auth login`, or set HF_TOKEN; there is no flag for a token, which would stay in the shell's
history. What is sent are safetensors, JSON, text, tables and pictures: a folder with pickles, with links that leave it
or with a token in a text is refused, and resume states and training_args.bin stay here.

The cards are written anew, with what people changed in them, here or on the Hub; a card that was changed here wins.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("publish")
