"""Tiny models that read texts and images together, with random weights and their families' processors, as folders."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import export.loading.processors  # noqa: F401 - which leaves out videos
from loadtest.tools import tiny

MOST_TOKENS = 400
"""Of a row, so that the largest images fit."""
SMALLEST, LARGEST = 16 * 16, 96 * 96
"""Pixels of an image after resizing."""
MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

TEXT: dict[str, Any] = {
    "hidden_size": tiny.WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
VISION: dict[str, Any] = {
    "depth": 3,
    "num_heads": 3,
    "patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
OWN: dict[str, Any] = VISION | {"hidden_size": 24, "intermediate_size": 48, "out_hidden_size": tiny.WIDTH}

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "Qwen2-VL": (
        "Qwen2VL",
        {"rope_parameters": ROPE},
        VISION | {"embed_dim": 24, "hidden_size": tiny.WIDTH, "mlp_ratio": 2},
    ),
    "Qwen2.5-VL": (
        "Qwen2_5_VL",
        {"rope_parameters": ROPE},
        OWN | {"fullatt_block_indexes": [1], "window_size": 16},
    ),
    "Qwen3-VL": (
        "Qwen3VL",
        {"head_dim": 8, "rope_parameters": ROPE | {"mrope_interleaved": True}},
        OWN | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
    ),
}
"""By name: the prefix of the classes, and what the configs of text and of vision have of their own."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a model. The vocabulary is the tokenizer's, whatever they are."""

    text: Mapping[str, Any] = field(default_factory=dict)
    """What the text's config has in place of TEXT."""
    vision: Mapping[str, Any] = field(default_factory=lambda: VISION)
    """What the vision tower's has in place of VISION."""
    most_tokens: int = MOST_TOKENS
    """Of a row."""
    largest: int = LARGEST
    """Pixels of an image after resizing, at most."""


TINY = Sizes()

_PARTS = (
    "{%- macro parts(content) -%}{%- if content is string -%}{{- content -}}{%- else -%}{%- for part in content -%}"
    "{%- if part.type == 'image' or 'image' in part -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
)
CHAT = (
    _PARTS + "{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\nRepresent the input of the user.<|im_end|>\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + parts(message.content) + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""The chat template of an embedder: as Qwen's, where a system message is the instruction."""
PAIR = (
    _PARTS + "{%- set system = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first"
    " | default('Retrieve what answers the query.') -%}"
    "{{- '<|im_start|>system\nJudge whether the document meets the query. Answer yes or no.<|im_end|>\n' -}}"
    "{{- '<|im_start|>user\n<Instruct>: ' + parts(system) -}}"
    "{{- '\n<Query>: ' + parts(messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first) -}}"
    "{{- '\n<Document>: ' + parts(messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first)"
    " -}}{{- '<|im_end|>\n<|im_start|>assistant\n' -}}"
)
"""The chat template of a reranker, as sentence-transformers gives it a query and a document."""
PROMPTS = {"query": "Find shells that fit the description.", "document": ""}


@cache
def chat_pairs() -> PreTrainedTokenizerFast:
    """As Qwen's vision-language models': the marks of images, and no end behind a text."""
    tokenizer = Tokenizer.from_str(tiny.decoder_pairs().backend_tokenizer.to_str())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _fast(tokenizer)


@cache
def ended_pairs() -> PreTrainedTokenizerFast:
    """The same with an end behind every text, as Qwen's embedders."""
    return _fast(Tokenizer.from_str(tiny.decoder_pairs().backend_tokenizer.to_str()))


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MOST_TOKENS,
        padding_side="right",
        pad_token=end,
        eos_token=end,
    )
    made.add_special_tokens({"additional_special_tokens": list(MARKS)})
    return made


def write_plain(folder: Path, name: str, kind: str = "Model", template: str = CHAT, sizes: Sizes = TINY) -> Path:
    """A transformers folder of a family, and its processor.

    Args:
        folder: where it is written.
        name: of FAMILIES.
        kind: the end of the model's class: "Model" or "ForConditionalGeneration".
        template: its chat template.
        sizes: of the model.
    """
    prefix, text, vision = FAMILIES[name]
    tokens = copy.deepcopy(ended_pairs() if (name, kind) == ("Qwen3-VL", "Model") else chat_pairs())
    tokens.model_max_length = sizes.most_tokens
    start, end, image, video = (tokens.convert_tokens_to_ids(mark) for mark in MARKS)
    ends = {"bos_token_id": None, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    config = getattr(transformers, f"{prefix}Config")(
        text_config={**TEXT, **text, **sizes.text, **ends, "vocab_size": len(tokens)},
        vision_config={**vision, **sizes.vision},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )
    processor = getattr(transformers, f"{prefix}Processor")(images(sizes), tokens, chat_template=template)
    return _write(folder, getattr(transformers, f"{prefix}{kind}")(config), processor)


def images(sizes: Sizes = TINY) -> Qwen2VLImageProcessorPil:
    """The image processor of all these families."""
    return Qwen2VLImageProcessorPil(
        patch_size=sizes.vision["patch_size"],
        merge_size=sizes.vision["spatial_merge_size"],
        size={"shortest_edge": SMALLEST, "longest_edge": sizes.largest},
    )


def _write(folder: Path, model: PreTrainedModel, processor: ProcessorMixin) -> Path:
    torch.manual_seed(0)
    tiny.stir(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_embedding(
    folder: Path, name: str = "Qwen3-VL", pooling: str = "lasttoken", sizes: Sizes = TINY, **settings: Any
) -> Path:
    """A folder of sentence-transformers whose texts and images are messages of a chat.

    Args:
        folder: where it is written.
        name: of FAMILIES.
        pooling: of its tokens.
        sizes: of the model.
        settings: of its SentenceTransformer.
    """
    transformer = Transformer(
        str(write_plain(folder / "transformer", name, sizes=sizes)),
        processing_kwargs={"chat_template": {"add_generation_prompt": True}},
    )
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling), Normalize()]
    SentenceTransformer(modules=modules, **{"prompts": PROMPTS, "device": "cpu", **settings}).save(
        str(folder / "model")
    )
    return folder / "model"


def write_reranker(folder: Path, name: str = "Qwen3-VL", template: str = PAIR, **settings: Any) -> Path:
    """A folder of sentence-transformers that answers whether a document fits a query, both of texts and images.

    Args:
        folder: where it is written.
        name: of FAMILIES.
        template: its chat template.
        settings: of its CrossEncoder.
    """
    source = write_plain(folder / "transformer", name, "ForConditionalGeneration", template)
    transformer = Transformer(str(source), transformer_task="any-to-any")
    answers = transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])
    modules = [transformer, LogitScore(*answers)]
    CrossEncoder(modules=modules, device="cpu", **settings).save(str(folder / "saved"))
    return folder / "saved"
