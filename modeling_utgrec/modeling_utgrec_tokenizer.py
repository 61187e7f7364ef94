"""UTGRec's item tokenizer network: an item's text and image in, its codes out, with the losses that train it.

backbone with LoRA -> states at the code tokens -> adapter MLP -> prefix residual -> tree codebooks -> codes
                                                               quantized -> text decoder, image decoder
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .checkpoint_adapters import AdapterCheckpoints
from .checkpoint_backbone import add_lora, fingerprint_weights, is_adaptation, merge_lora
from .checkpoint_format import CheckedLoading
from .configuration_utgrec_tokenizer import UTGRecTokenizerConfig
from .encoding_parts import prompt_parts
from .loss_contrastive import info_nce
from .quantization import QuantizerOutput, ResidualCodebooks, SimVQCodebook, TreeCodebooks
from .reconstruction import ImageDecoder, MaskedDecoder, TextDecoder, ZeroLinear
from .running_mean import RunningMean


@dataclass
class UTGRecTokenizerOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): the weighted sum of the parts (Eq. 13).
        text_loss, image_loss (`torch.FloatTensor` of shape `()`, *optional*): reconstruction of the item (Eq. 8, 9).
        quantization_loss (`torch.FloatTensor` of shape `()`, *optional*): codebooks and commitment (Eq. 5).
        alignment_loss (`torch.FloatTensor` of shape `()`, *optional*): InfoNCE with the positives (Eq. 11).
        co_text_loss, co_image_loss (`torch.FloatTensor` of shape `()`, *optional*):
            reconstruction of the positives (Eq. 12).
        codes (`torch.LongTensor` of shape `(items, num_levels)`): level-local codes.
        representations (`torch.FloatTensor` of shape `(items, num_levels, codebook_dim)`): continuous `Z` (Eq. 2).
        residuals (`torch.FloatTensor` of shape `(items, num_levels, codebook_dim)`): `Z'`, what was quantized (Eq. 3).
    """

    loss: torch.Tensor | None = None
    text_loss: torch.Tensor | None = None
    image_loss: torch.Tensor | None = None
    quantization_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    co_text_loss: torch.Tensor | None = None
    co_image_loss: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    representations: torch.Tensor | None = None
    residuals: torch.Tensor | None = None


class CodeTokenEmbedding(nn.Module):
    """The backbone's token embeddings, frozen or not, followed by the trained ones of the code tokens."""

    def __init__(self, tokens: nn.Embedding, num_code_tokens: int):
        super().__init__()
        self.tokens = tokens
        self.code_tokens = nn.Parameter(torch.empty(num_code_tokens, tokens.embedding_dim, dtype=tokens.weight.dtype))

    @property
    def weight(self) -> torch.Tensor:
        return self.tokens.weight

    def reset_parameters(self) -> None:
        # At the mean of the vocabulary a new token starts in range of what the backbone has seen.
        with torch.no_grad():
            weight = self.tokens.weight
            noise = torch.randn_like(self.code_tokens) * weight.std()
            self.code_tokens.copy_(weight.mean(dim=0) + noise)

    def forward(self, input_ids: torch.LongTensor) -> torch.Tensor:
        vocabulary = self.tokens.num_embeddings
        is_code = input_ids >= vocabulary
        embeddings = self.tokens(input_ids.masked_fill(is_code, 0))
        codes = F.embedding((input_ids - vocabulary).clamp(min=0), self.code_tokens)
        return torch.where(is_code[..., None], codes, embeddings)


class UTGRecTokenizerPreTrainedModel(PreTrainedModel):
    config: UTGRecTokenizerConfig
    base_model_prefix = "item_tokenizer"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    accepts_loss_kwargs = False  # the losses are means over the batch, not sums over tokens
    _keep_in_fp32_modules_strict = ["running_mean.mean"]
    # starts at zero; new in networks of version 0.1, whose codes do not hang on it
    _keys_to_ignore_on_load_missing = ["training_passes", r"(text|image)_decoder\.levels\.weight"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (SimVQCodebook, MaskedDecoder, ZeroLinear)):
            module.reset_parameters()
        elif isinstance(module, UTGRecTokenizerModel):
            init.zeros_(module.training_passes)


class UTGRecTokenizerModel(CheckedLoading, AdapterCheckpoints, UTGRecTokenizerPreTrainedModel):
    """
    The item tokenizer network (UTGRec, sections 2.2 and 2.3).

    A checkpoint is small if the backbone is published and adapted with LoRA: it holds what the training changed, and
    the backbone's name, commit and fingerprint.

    Args:
        config ([`UTGRecTokenizerConfig`]): the architecture.
        backbone (`PreTrainedModel`, *optional*):
            a loaded backbone to build on, such as `AutoModel.from_pretrained("Qwen/Qwen2-VL-2B-Instruct")`; built
            from `config.backbone_config` with random weights if not given.

    Example:

    ```python
    >>> backbone = AutoModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> config = UTGRecTokenizerConfig(
    ...     backbone_config=backbone.config,
    ...     backbone_name_or_path="sentence-transformers/all-MiniLM-L6-v2",
    ...     lora_config={"r": 8, "lora_alpha": 32},
    ... )
    >>> model = UTGRecTokenizerModel(config, backbone=backbone)
    >>> model.save_pretrained("tokenizer")  # adapter-sized
    ```

    Attributes:
        most_tokens (`int`, *optional*): of prompts that the backbone reads at a time in training, in parts of like
            length; by default all of a batch.
        kept_tokens (`int`, *optional*): of prompts whose states are kept for the backward pass, by default all. Parts
            beyond are read again then, with the same dropout: a little slower, in less memory, and the same gradient.
    """

    config: UTGRecTokenizerConfig
    adapter: nn.Sequential
    quantizer: TreeCodebooks | ResidualCodebooks
    expand: nn.Linear | None
    expand_domain: nn.Linear | None
    text_decoder: TextDecoder | None
    image_decoder: ImageDecoder | None
    backbone: PreTrainedModel
    training_passes: torch.Tensor
    most_tokens: int | None = None
    kept_tokens: int | None = None

    def __init__(self, config: UTGRecTokenizerConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        width = config.backbone_hidden_size
        self.adapter = nn.Sequential(
            nn.Linear(width, config.adapter_hidden_size),
            nn.GELU(),
            nn.Dropout(config.adapter_dropout),
            nn.Linear(config.adapter_hidden_size, config.codebook_dim),
        )
        codebooks = (config.level_sizes, config.codebook_dim, config.commitment_weight)
        if config.codebook_structure == "tree":
            self.quantizer = TreeCodebooks(*codebooks, config.codebook_projection_init)
        else:
            self.quantizer = ResidualCodebooks(*codebooks)
        self.running_mean = RunningMean(config.num_levels, config.codebook_dim) if config.codebook_centering else None
        self.expand = self.expand_domain = self.text_decoder = self.image_decoder = None
        if config.with_decoders:
            self._add_decoders(config, width)
        # Persistent, so that a resumed training neither repeats the warm-up nor skips it.
        self.register_buffer("training_passes", torch.zeros((), dtype=torch.long))
        self.post_init()
        if backbone is not None and config.backbone_name_or_path is not None:
            config.backbone_fingerprint = fingerprint_weights(backbone.state_dict().items())
        # After post_init, which would initialise pretrained weights and LoRA anew.
        self.backbone = AutoModel.from_config(config.backbone_config) if backbone is None else backbone
        # Becoming part of our configuration clears a given backbone's choice, and without one it would not mask.
        self.backbone.set_attn_implementation(config._attn_implementation)
        self._adapt_backbone()
        self.set_trainable()
        # So that the Trainer does not miss them in its checkpoints.
        self._keys_to_ignore_on_save = self.own_backbone_weights() if self.has_published_backbone else None

    def _add_decoders(self, config: UTGRecTokenizerConfig, width: int) -> None:
        heads = decoder_heads(width)
        self.expand = nn.Linear(config.codebook_dim, width)
        if config.centre_domains:
            self.expand_domain = nn.Linear(width, width, bias=False)
        self.text_decoder = TextDecoder(
            width, heads, config.max_text_tokens, config.num_levels, config.decoder_dropout
        )
        if config.latent_channels is not None:
            self.image_decoder = ImageDecoder(
                width,
                heads,
                config.decoder_dropout,
                latent_channels=config.latent_channels,
                latent_size=config.latent_size,
                num_levels=config.num_levels,
                denoiser_width=config.denoiser_width,
                denoiser_depth=config.denoiser_depth,
                num_steps=config.diffusion_steps,
                repeats=config.diffusion_repeats,
                attends_masks=config.image_attends_masks,
            )

    def _adapt_backbone(self) -> None:
        """Adds the code tokens' embeddings and, if configured, LoRA on the language model's linear layers."""
        tokens = cast(nn.Embedding, self.backbone.get_input_embeddings())
        embedding = CodeTokenEmbedding(tokens, self.config.num_levels)
        embedding.reset_parameters()
        self.backbone.set_input_embeddings(embedding)
        # A key-value cache is of no use without generation, and costs a copy of every key and value.
        self.backbone.config.get_text_config().use_cache = False
        if self.config.lora_config is not None:
            add_lora(self.backbone, self.config.lora_config)

    def code_tensors(self) -> Iterator[torch.Tensor]:
        """What an item's codes depend on: codebooks, the mean around which they lie, adapter and the backbone's
        trained weights."""
        yield from self.quantizer.parameters()
        if self.running_mean is not None:
            yield self.running_mean.mean.to(self.adapter_dtype)  # as it is taken off
        yield from self.adapter.parameters()
        # With LoRA the backbone's own weights are large and identical to the published ones.
        adapted = self.config.lora_config is not None
        for name, parameter in self.backbone.named_parameters():
            if not adapted or is_adaptation(name):
                yield parameter

    @property
    def adapter_dtype(self) -> torch.dtype:
        return next(self.adapter.parameters()).dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_trainable(self, freeze_codes: bool = False, freeze_backbone: bool = False) -> None:
        """Sets which parameters learn: with LoRA, the backbone's own are frozen; the adapters, the code tokens,
        adapter MLP, codebooks and decoders always learn. Which they are is not stored in a checkpoint.

        Args:
            freeze_codes (`bool`): for a new domain, keeps the codebook matrices `C_root` and `C_leaf` as they are
                while their projections `W` learn (section 2.4.2).
            freeze_backbone (`bool`): keeps the backbone, its adapters and the code tokens as they are.

        Raises:
            ValueError: the backbone has adapters of peft, and the configuration no `lora_config`.
        """
        if self.config.lora_config is None and any(".base_layer." in name for name in self.backbone.state_dict()):
            raise ValueError(
                "The backbone has adapters that the configuration knows nothing of, so that no checkpoint of it could "
                "be loaded: leave them out, and give UTGRecTokenizerConfig a lora_config."
            )
        self.requires_grad_(True)
        if freeze_backbone:
            self.backbone.requires_grad_(False)
        elif self.config.lora_config is not None:
            for name, parameter in self.backbone.named_parameters():
                parameter.requires_grad = is_adaptation(name)
        for module in self.quantizer.modules():
            if isinstance(module, SimVQCodebook):
                module.codes.requires_grad = not freeze_codes

    def merge_and_unload(self) -> "UTGRecTokenizerModel":
        """Adds LoRA's products to the backbone's weights and removes LoRA, in place: a plain network, whose checkpoint
        holds the backbone and needs no peft. Sums are rounded otherwise, so it has a fingerprint of its own."""
        if self.config.lora_config is not None:
            merge_lora(self.backbone)
            self.config.lora_config = self.config.backbone_fingerprint = self._keys_to_ignore_on_save = None
            self.set_trainable()
        return self

    @property
    def in_warmup(self) -> bool:
        """Whether the decoders still see unquantized representations."""
        return bool(self.training_passes < self.config.warmup_steps)

    def encode(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        code_states: torch.Tensor | None = None,
        domain_means: torch.Tensor | None = None,
        **backbone_inputs,
    ) -> torch.Tensor:
        """Continuous representations `Z` of shape `(items, num_levels, codebook_dim)` (Eq. 2).

        Args:
            input_ids (`torch.LongTensor` of shape `(items, length)`): prompts, each with every code token once.
            attention_mask (`torch.LongTensor` of shape `(items, length)`): 0 at padding.
            code_states (`torch.FloatTensor`, *optional*):
                what [`~UTGRecTokenizerModel.code_states`] gave of the prompts, in their place: no prompt is read.
            domain_means (`torch.FloatTensor`, *optional*):
                with `centre_domains`, the mean of these states over all items of the domain, of the shape of one
                item's, or of all items' for items of several domains.
            backbone_inputs: what else the backbone takes, such as `pixel_values` and `image_grid_thw`.
        """
        if code_states is not None:
            return self._adapted(code_states, domain_means)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **backbone_inputs}
        if not (self.training and torch.is_grad_enabled() and self.most_tokens) or "mm_encoder_outputs" in inputs:
            return self._adapted(self.code_states(inputs), domain_means)
        places, hidden, tokens = [], [], 0
        for rows, part in prompt_parts(inputs, self.most_tokens):
            tokens += part["input_ids"].numel()
            if self.kept_tokens is None or tokens <= self.kept_tokens:
                hidden.append(self.code_states(part))
            else:
                hidden.append(checkpoint(self.code_states, part, use_reentrant=False))
            places.append(rows)
        return self._adapted(torch.cat(hidden).index_select(0, torch.cat(places).argsort()), domain_means)

    def quantize(self, representations: torch.Tensor) -> QuantizerOutput:
        """Codes of representations `(items, num_levels, codebook_dim)`, with `codebook_centering` of what they differ
        from their mean by."""
        if self.running_mean is None:
            return self.quantizer(representations)
        # Quantized are representations in their own precision, under autocast in that of the weights.
        mean = self.running_mean(representations).to(torch.promote_types(representations.dtype, self.adapter_dtype))
        output: QuantizerOutput = self.quantizer(representations - mean)
        assert output.quantized is not None
        output.quantized = output.quantized + mean
        return output

    def code_states(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the adapter reads of some prompts, which are given by name as [`~UTGRecTokenizerModel.encode`] takes
        them: the backbone's states at the code tokens, `(items, num_levels, backbone_hidden_size)`, or, where the
        levels share a representation, the mean of those at all other tokens, `(items, 1, backbone_hidden_size)`."""
        if "code_states" in inputs:
            return inputs["code_states"]
        is_code = inputs["input_ids"] >= self.config.backbone_vocab_size
        states = self.backbone(**inputs).last_hidden_state
        if self.config.shared_representation:
            counted = (inputs["attention_mask"].bool() & ~is_code)[..., None]
            hidden = (states * counted).sum(dim=1, keepdim=True) / counted.sum(dim=1, keepdim=True)
        else:
            hidden = states[is_code].view(len(is_code), self.config.num_levels, -1)
        return hidden

    def _adapted(self, states: torch.Tensor, domain_means: torch.Tensor | None) -> torch.Tensor:
        """`Z` of what [`~UTGRecTokenizerModel.code_states`] gave."""
        if (domain_means is not None) != self.config.centre_domains:
            raise ValueError(
                "domain_means, the mean of the domain's states, is what a network with centre_domains needs, and no "
                f"other; this one has centre_domains={self.config.centre_domains}."
            )
        if domain_means is not None:
            states = states - domain_means
        states = states.to(self.adapter_dtype)
        return self.adapter(states).expand(-1, self.config.num_levels, -1)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        text_labels: torch.LongTensor | None = None,
        image_latents: torch.Tensor | None = None,
        has_image: torch.BoolTensor | None = None,
        anchor_rows: torch.LongTensor | None = None,
        positive_rows: torch.LongTensor | None = None,
        excluded_negatives: torch.BoolTensor | None = None,
        mm_encoder_outputs: dict | None = None,
        code_states: torch.Tensor | None = None,
        domain_means: torch.Tensor | None = None,
    ) -> UTGRecTokenizerOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(items, length)`): prompts with the code tokens.
            attention_mask (`torch.LongTensor` of shape `(items, length)`): 0 at padding.
            pixel_values, image_grid_thw, mm_token_type_ids: the backbone's image inputs; absent without images.
            text_labels (`torch.LongTensor` of shape `(items, text_length)`, *optional*):
                tokens of the items' texts, -100 at padding. Without them no loss is computed.
            image_latents (`torch.FloatTensor` of shape `(items, channels, size, size)`, *optional*):
                scaled latents of the items' images, anything where `has_image` is false.
            has_image (`torch.BoolTensor` of shape `(items,)`, *optional*): which items have latents.
            anchor_rows, positive_rows (`torch.LongTensor` of shape `(batch,)`, *optional*):
                each training pair as rows of the items above, so that an item that takes part twice is encoded once.
                Without them every item is an anchor and there is no co-occurrence loss.
            excluded_negatives (`torch.BoolTensor` of shape `(batch, batch * processes)`, *optional*):
                see [`info_nce`].
            mm_encoder_outputs (`dict`, *optional*):
                what the vision tower gave, in place of `pixel_values`; see transformers' multimodal models.
            code_states (`torch.FloatTensor`, *optional*):
                what [`~UTGRecTokenizerModel.code_states`] gave of the prompts, in place of them and their images.
            domain_means (`torch.FloatTensor`, *optional*): as [`~UTGRecTokenizerModel.encode`] takes it.

        Raises:
            ValueError: for labels, if the network was saved without decoders.
        """
        config = self.config
        images = {
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "mm_token_type_ids": mm_token_type_ids,
            "mm_encoder_outputs": mm_encoder_outputs,
        }
        given = {name: value for name, value in images.items() if value is not None}
        z = self.encode(input_ids, attention_mask, code_states, domain_means, **given)
        if text_labels is None:
            quantized = self.quantize(z)
            return UTGRecTokenizerOutput(codes=quantized.codes, representations=z, residuals=quantized.residuals)
        if self.text_decoder is None or self.expand is None:
            raise ValueError(
                "This network has no decoders (with_decoders=False) and hence no loss: leave out the labels."
            )

        anchors = torch.arange(len(z), device=z.device) if anchor_rows is None else anchor_rows
        anchored = z.index_select(0, anchors)  # not `z[anchors]`, whose gradient depends on the order of CPU threads
        quantized = self.quantize(anchored)
        assert quantized.loss is not None
        warmup = self.in_warmup
        decoded = anchored if warmup else quantized.quantized
        if self.training:
            self.training_passes += 1
        hidden = self.expand(decoded)
        if self.expand_domain is not None and domain_means is not None:
            # An anchor's positive is of its domain, whose mean serves the reconstruction of both.
            of_anchors = domain_means.expand(len(z), -1, -1).index_select(0, anchors)
            hidden = hidden + self.expand_domain(of_anchors.to(hidden.dtype))
        items = (text_labels, image_latents, has_image)
        text_loss, image_loss = self.reconstruct(hidden, anchors, *items)
        output = UTGRecTokenizerOutput(
            text_loss=text_loss,
            image_loss=image_loss,
            quantization_loss=quantized.loss,
            codes=quantized.codes,
            representations=anchored,
            residuals=quantized.residuals,
        )
        loss = text_loss + config.image_weight * image_loss
        # Zero rather than left out: distributed training expects a gradient for every parameter.
        quantization_weight = 0.0 if warmup else config.quantization_weight
        loss = loss + quantization_weight * quantized.loss
        if positive_rows is not None and config.alignment_weight > 0:
            positives = z.index_select(0, positive_rows)
            alignment = output.alignment_loss = info_nce(anchored, positives, config.temperature, excluded_negatives)
            loss = loss + config.alignment_weight * alignment
        if positive_rows is not None and config.co_reconstruction_weight > 0:
            text_loss, image_loss = self.reconstruct(hidden, positive_rows, *items)
            output.co_text_loss, output.co_image_loss = text_loss, image_loss
            co_loss = text_loss + config.image_weight * image_loss
            loss = loss + config.co_reconstruction_weight * co_loss
        output.loss = loss
        return output

    def reconstruct(
        self,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        text_labels: torch.Tensor,
        image_latents: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Losses of representations against the texts and images of items (Eq. 8, 9). In training they are means over
        the tokens and images of all processes' batches; batches whose gradients are accumulated weigh the same,
        however many of them they have.

        Args:
            hidden (`torch.FloatTensor` of shape `(batch, num_levels, backbone_hidden_size)`):
                what the decoders see, from `expand`.
            rows (`torch.LongTensor` of shape `(batch,)`): the item of each, among those of the further arguments.
            text_labels, image_latents, has_image: see [`~UTGRecTokenizerModel.forward`].

        Returns:
            Of the text and of the image, scalars; a zero with gradient without images.
        """
        assert self.text_decoder is not None  # as forward has checked
        embeddings = cast(CodeTokenEmbedding, self.get_input_embeddings()).weight
        text_loss = self.text_decoder.loss(hidden, text_labels[rows], embeddings)
        return text_loss, self._image_loss(hidden, rows, image_latents, has_image)

    def _image_loss(
        self,
        hidden: torch.Tensor,
        rows: torch.Tensor,
        image_latents: torch.Tensor | None,
        has_image: torch.Tensor | None,
    ) -> torch.Tensor:
        """Diffusion loss of `hidden` against the images of the items `rows`; a zero with gradient without images."""
        if self.image_decoder is None:
            return hidden.sum() * 0.0
        if image_latents is None:
            channels = cast(int, self.config.latent_channels)  # there is a decoder
            return self.image_decoder.loss(hidden[:0], hidden.new_zeros(0, channels, 1, 1))
        assert has_image is not None
        present = has_image[rows]
        return self.image_decoder.loss(hidden[present], image_latents[rows[present]])


def decoder_heads(width: int) -> int:
    """Heads of about 64 channels each that divide the width."""
    return next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)
