"""Tiny models that read pages as images and answer with a vector of each token, with random weights, as folders."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tokenizers import Tokenizer, processors
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from loadtest.tools import tiny, tiny_vision
from loadtest.tools.tiny_vision import CHAT

VECTOR = 16
"""The dimensions of a token's vector."""
SIDE = 64
"""Pixels of the side of a ColPali's images."""
GEMMAS: Mapping[str, Mapping[str, Any]] = {
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 16, "attn_logit_softcapping": 2.0},
}
"""The text towers of PaliGemma and PaliGemma 2, by `model_type`."""


def write_colqwen2(folder: Path, backbone: str = "Qwen2-VL") -> Path:
    """A ColQwen2 as transformers saves it.

    Args:
        folder: where it is written.
        backbone: of tiny_vision.FAMILIES.
    """
    inner = tiny_vision.write_plain(folder / "backbone", backbone)
    config = transformers.ColQwen2Config(vlm_config=AutoConfig.from_pretrained(inner).to_dict(), embedding_dim=VECTOR)
    images = tiny_vision.images()
    processor = transformers.ColQwen2Processor(images, copy.deepcopy(tiny_vision.chat_pairs()))
    return _write(folder / "model", transformers.ColQwen2ForRetrieval(config), processor)


@cache
def page_pairs() -> PreTrainedTokenizerFast:
    """As PaliGemma's: Gemma's without a beginning, which the processor writes into the text."""
    tokenizer = Tokenizer.from_str(tiny.gemma_pairs().backend_tokenizer.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    special = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=tiny_vision.MOST_TOKENS, padding_side="right", **special
    )


def write_colpali(folder: Path, text: str = "gemma") -> Path:
    """A ColPali as transformers saves it.

    Args:
        folder: where it is written.
        text: of GEMMAS.
    """
    images: Any = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // 8) ** 2
    processor = transformers.ColPaliProcessor(images, copy.deepcopy(page_pairs()))
    tokens = processor.tokenizer
    ends = {name: getattr(tokens, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {**tiny_vision.TEXT, **GEMMAS[text], "head_dim": 8, "vocab_size": len(tokens)}
    inner = transformers.PaliGemmaConfig(
        text_config={"model_type": text, **sizes, **ends},
        vision_config={
            **tiny.VISION,
            "model_type": "siglip_vision_model",
            "image_size": SIDE,
            "vision_use_head": False,
        },
        image_token_index=processor.image_token_id,
        projection_dim=tiny.WIDTH,
        hidden_size=tiny.WIDTH,
    )
    config = transformers.ColPaliConfig(vlm_config=inner.to_dict(), embedding_dim=VECTOR)
    return _write(folder / "model", transformers.ColPaliForRetrieval(config), processor)


def write_chat(folder: Path, name: str = "Qwen3-VL") -> Path:
    """A folder of sentence-transformers whose pages and queries are messages, as ColQwen3's.

    Its chat template is told which side a message is of, and has room for a query to be expanded.

    Args:
        folder: where it is written.
        name: of tiny_vision.FAMILIES.
    """
    room = "{%- if task == 'query' -%}{{- '<|endoftext|>' * 4 -}}{%- endif -%}"
    transformer = Transformer(str(tiny_vision.write_plain(folder / "transformer", name, template=CHAT + room)))
    torch.manual_seed(1)
    narrow = Dense(tiny.WIDTH, VECTOR, bias=False, activation_function=None, module_input_name=tiny.TOKENS)
    modules = [transformer, narrow, MultiVectorMask(), Normalize(tiny.TOKENS)]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def _write(folder: Path, model: PreTrainedModel, processor: ProcessorMixin) -> Path:
    torch.manual_seed(0)
    tiny.stir(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
