"""Embeddings of a catalogue's texts or images by a frozen encoder, in a folder that other commands read.

    utgrec embed --data data/beauty --encoder sentence-transformers/all-MiniLM-L6-v2 --output_dir runs/beauty-texts
    utgrec embed --data data/beauty --encoder tf-idf --output_dir runs/beauty-words
    utgrec embed --data data/beauty --encoder openai/clip-vit-base-patch32 --images --output_dir runs/beauty-images

tf-idf is no network but a truncated SVD of the words' TF-IDF, fitted on the catalogue: vectors of two catalogues do
not compare, and for items that are added all are embedded anew.

With --introduction the texts of all domains follow one template, as RecBase's tokenizer needs them. A second call with
the same items, encoder and settings finds its work done and leaves the folder as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hub_cards import named
from tokenization_items.catalogue import TEXT_FIELDS, Catalogue
from tokenization_items.image_encoders import ImageEncoder
from tokenization_items.item_embeddings import embed_items
from tokenization_items.text_encoders import TextEncoder
from tokenization_items.text_statistics import TF_IDF, TextStatistics
from tokenization_items.text_template import MAX_FIELD_CHARACTERS, TextTemplate
from trainers.arguments import parse_sections
from trainers.runtime.run_file import run_values, write_run_file


@dataclass
class EmbedArguments:
    data: str = field(metadata={"help": "Data folder with the items."})
    encoder: str = field(
        metadata={
            "help": "Hub id or folder: a sentence-transformers model or any encoder of AutoModel; or `tf-idf`, which "
            "needs none."
        }
    )
    output_dir: str = field(metadata={"help": "Where the embeddings go."})
    images: bool = field(default=False, metadata={"help": "Embed the images, of the items that have one."})
    text_fields: list[str] = field(
        default_factory=lambda: list(TEXT_FIELDS), metadata={"help": "Fields of an item's text, in order."}
    )
    introduction: str | None = field(
        default=None,
        metadata={"help": "Said before the fields, which then have a line each; default: full stops between."},
    )
    max_field_characters: int = field(
        default=MAX_FIELD_CHARACTERS, metadata={"help": "Where each field is cut, with an introduction."}
    )
    pooling: Literal["mean", "cls", "last"] | None = field(
        default=None, metadata={"help": "Of the tokens' states; default: as the encoder's files say, or mean."}
    )
    normalize: bool | None = field(
        default=None, metadata={"help": "Scale vectors to length 1; default: as the encoder's files say, or no."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Tokens of the longest text; default: what the encoder takes."}
    )
    prefix: str | None = field(
        default=None, metadata={"help": "Put before every text; default: as the encoder's files say."}
    )
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata={"help": "Of the encoder's weights."})
    revision: str | None = field(default=None, metadata={"help": "Revision of the encoder on the Hub."})
    batch_tokens: int = field(default=16384, metadata={"help": "Tokens of one batch of texts."})
    batch_images: int = field(default=64, metadata={"help": "Images of one batch."})


def run(arguments: EmbedArguments) -> bool:
    """Embeds, prints what it did and returns whether it did anything."""
    template = None
    if arguments.introduction is not None:
        template = TextTemplate(arguments.introduction, arguments.max_field_characters)
    if arguments.encoder == TF_IDF:
        settings = ("pooling", "normalize", "max_length", "prefix", "revision")
        unread = [f"--{name}" for name in settings if getattr(arguments, name) is not None]
        if arguments.images or unread:
            raise SystemExit(f"--encoder {TF_IDF} has no {' and no '.join(unread or ['--images'])}.")
    catalogue = Catalogue.from_folder(arguments.data, text_fields=arguments.text_fields, template=template)
    catalogue.check(images=arguments.images)
    encoder: ImageEncoder | TextEncoder | TextStatistics
    if arguments.encoder == TF_IDF:
        encoder = TextStatistics()
    elif arguments.images:
        encoder = ImageEncoder.from_pretrained(arguments.encoder, dtype=arguments.dtype, revision=arguments.revision)
    else:
        encoder = TextEncoder.from_pretrained(
            arguments.encoder,
            pooling=arguments.pooling,
            normalize=arguments.normalize,
            max_length=arguments.max_length,
            prefix=arguments.prefix,
            dtype=arguments.dtype,
            revision=arguments.revision,
        )
    done = embed_items(
        catalogue,
        encoder,
        arguments.output_dir,
        batch_tokens=arguments.batch_tokens,
        batch_images=arguments.batch_images,
    )
    write_run_file(arguments.output_dir, "embed", run_values(arguments))
    what = "images" if arguments.images else "texts"
    left_out = without_input(catalogue, arguments.images)
    if left_out:
        reason = "image: they have no vector" if arguments.images else "text: theirs is of no text, or the mean"
        print(f"{catalogue.name}: {len(left_out):,} items have no {reason}: {named(left_out)}")
    number = len(catalogue) - len(left_out) * arguments.images
    print(
        f"{catalogue.name}: {what} of {number:,} items {'embedded into' if done else 'were already in'} "
        f"{arguments.output_dir}"
    )
    return done


def without_input(catalogue: Catalogue, images: bool) -> list[str]:
    """Items of which there is nothing to embed."""
    if images:
        return [item_id for row, item_id in enumerate(catalogue.item_ids) if not catalogue.has_image(row)]
    is_bare = (lambda text: not text.strip()) if catalogue.template is None else catalogue.template.is_bare
    return [item_id for item_id, text in zip(catalogue.item_ids, catalogue.texts, strict=True) if is_bare(text)]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(EmbedArguments, {}, __doc__, argv))
