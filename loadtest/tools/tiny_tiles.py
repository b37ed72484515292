"""Tiny models of real architectures that read images in tiles or by a budget, with their own processors."""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

import export.loading.processors  # noqa: F401 - which leaves out videos
from loadtest.tools import tiny

MOST_TOKENS = 2000
"""Of a row, so that the largest images fit."""
TILE = 32
"""Pixels on a side of a tile, and patches of 4 x 4 pixels are merged 4 x 4: a tile takes 4 tokens."""
MARKS = {"image": "<|image|>", "boi": "<|image>", "eoi": "<image|>", "video": "<|video|>"}
"""The special tokens of EmbeddingGemma 2 for images, by the names of its config."""
CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
)
PLAIN_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@cache
def tile_pairs() -> PreTrainedTokenizerFast:
    """As ModernVBERT's: RoBERTa's kind, with the marks of tiles and of a chat."""
    marks = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", "<|im_start|>", *marks]
    return _with(tiny.byte_pairs(), special)


@cache
def budget_pairs() -> PreTrainedTokenizerFast:
    """As EmbeddingGemma 2's: Gemma's, with the marks of images."""
    tokens = _with(tiny.gemma_pairs(), list(MARKS.values()))
    known = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    images = {f"{name}_token": MARKS[name] for name in ("image", "boi", "eoi")}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokens.backend_tokenizer,
        extra_special_tokens=images,
        padding_side="right",
        model_max_length=MOST_TOKENS,
        **known,
    )


def _with(tokens: PreTrainedTokenizerFast, special: Sequence[str]) -> PreTrainedTokenizerFast:
    tokens = copy.deepcopy(tokens)
    tokens.add_special_tokens({"additional_special_tokens": [AddedToken(mark, normalized=False) for mark in special]})
    tokens.model_max_length = MOST_TOKENS
    return tokens


def _modernvbert(tokens: PreTrainedTokenizerFast) -> PretrainedConfig:
    text = tiny.SIZES | {
        "model_type": "modernbert",
        "vocab_size": len(tokens),
        "pad_token_id": tokens.pad_token_id,
        "max_position_embeddings": MOST_TOKENS,
        "global_attn_every_n_layers": 2,
        "local_attention": 16,
    }
    vision = tiny.VISION | {"model_type": "siglip_vision_model", "image_size": TILE, "patch_size": 4}
    return AutoConfig.for_model(
        "modernvbert",
        text_config=text,
        vision_config=vision,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pixel_shuffle_factor=4,
    )


def _tiles() -> transformers.Idefics3ImageProcessor:
    return transformers.Idefics3ImageProcessor(
        size={"longest_edge": 3 * TILE},
        max_image_size={"longest_edge": TILE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def write_modernvbert(folder: Path, pooling: str = "mean") -> Path:
    """A folder of sentence-transformers whose model reads texts and tiles of images together."""
    tokens = tile_pairs()
    torch.manual_seed(0)
    model = _model(_modernvbert(tokens))
    processor = transformers.Idefics3Processor(_tiles(), tokens, image_seq_len=4, chat_template=CHAT)
    return _embedding(folder, model, processor, pooling)


def write_colmodernvbert(folder: Path) -> Path:
    """A transformers folder of ColModernVBERT with its processor."""
    tokens = tile_pairs()
    torch.manual_seed(0)
    settings: Any = AutoConfig.for_model("colmodernvbert", vlm_config=_modernvbert(tokens), embedding_dim=16)
    model: Any = transformers.ColModernVBertForRetrieval(settings)
    prompt = "<|im_start|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
    processor = transformers.ColModernVBertProcessor(
        _tiles(), tokens, image_seq_len=4, visual_prompt_prefix=prompt, query_prefix="Query: "
    )
    return _write(folder, model, processor)


def write_embedding_gemma2(folder: Path) -> Path:
    """A folder of sentence-transformers of EmbeddingGemma 2 without audio, whose images have a budget of patches."""
    tokens = budget_pairs()
    ids = {f"{name}_token_id": tokens.convert_tokens_to_ids(mark) for name, mark in MARKS.items()}
    text = tiny.DECODER | {
        "vocab_size": len(tokens),
        "sliding_window": 16,
        "sliding_window_pattern": 3,
        "global_head_dim": 16,
        "hidden_size_per_layer_input": 16,
        "embedding_dim": tiny.WIDTH,
        "max_position_embeddings": MOST_TOKENS,
        "pad_token_id": tokens.pad_token_id,
    }
    vision = {
        "model_type": "gemma4_vision",
        "hidden_size": tiny.WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "patch_size": 4,
        "position_embedding_size": 700,
        "standardize": True,
    }
    torch.manual_seed(0)
    audio = {"audio_config": None, "boa_token_id": None, "eoa_token_index": None, "audio_token_id": None}
    model = _model(AutoConfig.for_model("embedding_gemma2", text_config=text, vision_config=vision, **audio, **ids))
    processor = transformers.EmbeddingGemma2Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokens,
        None,
        chat_template=PLAIN_CHAT,
    )
    return _embedding(folder, model, processor, "mean")


def _model(settings: PretrainedConfig) -> Any:  # noqa: ANN401 - of any family
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(settings)  # type: ignore[no-untyped-call]
    return model


def _embedding(folder: Path, model: Any, processor: ProcessorMixin, pooling: str) -> Path:  # noqa: ANN401
    transformer = Transformer(str(_write(folder / "transformer", model, processor)))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def _write(folder: Path, model: Any, processor: ProcessorMixin) -> Path:  # noqa: ANN401
    tiny.stir(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_norm" in name or "k_norm" in name:  # Gemma's scores are as large as these let them be
                weight.fill_(0.5)
        for name, values in model.named_buffers():
            if name.endswith(("std_bias", "std_scale")):
                values.uniform_(0.5, 1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
