"""Makes a diffusers AutoencoderKL of the published KL-16 of MAR, whose latents UTGRec reconstructs.

python examples/convert_autoencoder.py --weights kl16.ckpt --output_dir runs/kl16
"""

from trainers.commands import run_command

if __name__ == "__main__":
    run_command("convert-autoencoder")
