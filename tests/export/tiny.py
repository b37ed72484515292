"""Tiny models of real architectures with random weights, as folders of sentence-transformers."""

import shutil
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import AutoModel, BertConfig, PretrainedConfig

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 30522,
    "max_position_embeddings": 128,
}


def write_tiny(
    folder: Path,
    tokenizer: Path,
    pooling: str = "mean",
    config: PretrainedConfig | None = None,
    *,
    dense: bool = False,
) -> Path:
    """Write a model with the tokenizer of another folder; by default a BERT."""
    torch.manual_seed(0)
    transformers_folder = folder / "transformer"
    AutoModel.from_config(config or BertConfig(**SIZES)).save_pretrained(transformers_folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(tokenizer / file, transformers_folder)
    transformer = Transformer(str(transformers_folder), max_seq_length=100)
    modules = [transformer, Pooling(SIZES["hidden_size"], pooling)]
    modules += [Dense(SIZES["hidden_size"], 16)] if dense else []
    SentenceTransformer(modules=[*modules, Normalize()], device="cpu").save(str(folder / "model"))
    return folder / "model"
