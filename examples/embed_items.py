"""Embeds the texts or the images of a catalogue with a frozen encoder, into a folder that other scripts read.

    python examples/embed_items.py --data data/beauty --encoder sentence-transformers/all-MiniLM-L6-v2 \
        --output_dir runs/embeddings/beauty
    python examples/embed_items.py --data data/beauty --encoder openai/clip-vit-base-patch32 --images \
        --output_dir runs/embeddings/beauty-images

With `--introduction` the texts of all domains follow one template, as RecBase's tokenizer needs them:

    python examples/embed_items.py --data data/films --encoder sentence-transformers/all-MiniLM-L6-v2 \
        --introduction "Describe a movie:" --output_dir runs/embeddings/films

A second call with the same items, encoder and settings finds its work done and leaves the folder as it is.
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("embed")
