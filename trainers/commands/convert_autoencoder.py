"""The autoencoder of published images' latents, in latent diffusion's layout, as an AutoencoderKL of diffusers.

    utgrec convert-autoencoder --weights kl16.ckpt --output_dir runs/kl16
    utgrec pretrain --config paper --tokenizer.autoencoder runs/kl16 --data data/a data/b --output_dir runs/paper

Made for the KL-16 of MAR (Li et al. 2024; 16 channels, a latent for 16 x 16 pixels), which UTGRec's paper takes; sizes
are read off the weights. A file of torch's is read without running anything that it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenization_items.files import updating_folder
from trainers.arguments import parse_sections
from trainers.methods.ldm_autoencoder import KL16_SCALE, convert_ldm_autoencoder, read_ldm_weights


@dataclass
class ConvertAutoencoderArguments:
    weights: str = field(metadata={"help": "File with the weights, safetensors or torch's (kl16.ckpt)."})
    output_dir: str = field(metadata={"help": "Where the autoencoder goes."})
    scale: float = field(default=KL16_SCALE, metadata={"help": "Factor on the latents, kept in its configuration."})
    norm_num_groups: int = field(default=32, metadata={"help": "Groups of its norms, which the weights don't tell."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an autoencoder that is in output_dir."})


def run(arguments: ConvertAutoencoderArguments) -> None:
    """Converts, saves as safetensors and says what the autoencoder is."""
    output = Path(arguments.output_dir)
    if (output / "config.json").is_file() and not arguments.overwrite:
        raise SystemExit(f"{output} holds a model: give another --output_dir; --overwrite replaces it.")
    weights = read_ldm_weights(arguments.weights)
    autoencoder = convert_ldm_autoencoder(weights, arguments.scale, arguments.norm_num_groups)
    with updating_folder(output) as working:
        autoencoder.save_pretrained(working)
    config: Any = autoencoder.config
    stride = 2 ** (len(config.block_out_channels) - 1)
    print(f"{output}: {config.latent_channels} channels, a latent for {stride} x {stride} pixels")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, by default the program's."""
    run(*parse_sections(ConvertAutoencoderArguments, {}, __doc__, argv))
