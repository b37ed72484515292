"""Tiny models of real architectures with random weights and tokenizers of their kind, as folders of files."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
)
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, T5EncoderModel

from export.rows import Rows
from export.tower import FIRST_LENGTH, Tower

TEXTS = Path("export/samples.txt").read_text().splitlines()
POSITIONS = 128
WIDTH = 32
IMAGE = 32

SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
DECODER = GROUPED | {"head_dim": 8}


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT's, with segments."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _fast(tokenizer, pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")


@cache
def byte_pairs() -> PreTrainedTokenizerFast:
    """As RoBERTa's: <s> a </s></s> b </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return _fast(tokenizer, pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>", eos="</s>", bos="<s>")


@cache
def decoder_pairs() -> PreTrainedTokenizerFast:
    """As Qwen's: an end of text behind every text, and the marks of a chat."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        [*TEXTS, *["yes", "no"] * 50],
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    return _fast(tokenizer, pad="<|endoftext|>", eos="<|endoftext|>")


@cache
def unigram() -> PreTrainedTokenizerFast:
    """As XLM-RoBERTa's, from SentencePiece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>"),  # noqa: S106
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _fast(tokenizer, pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>", bos="<s>", eos="</s>")


@cache
def clip_pairs() -> PreTrainedTokenizerFast:
    """As CLIP's: the end of a text has the highest id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("<|startoftext|>", "<|endoftext|>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=marks
    )
    return _fast(tokenizer, pad="<|endoftext|>", bos="<|startoftext|>", eos="<|endoftext|>")


def _fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    names = {f"{name}_token": token for name, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=100, **names)


Family = tuple[str, Callable[[], PreTrainedTokenizerFast], Mapping[str, Any]]

ENCODERS: dict[str, Family] = {
    "ALBERT": ("Albert", unigram, SIZES | {"embedding_size": 16}),
    "BERT": ("Bert", wordpiece, SIZES),
    "CamemBERT": ("Camembert", unigram, SIZES),
    "DeBERTa-v2": (
        "DebertaV2",
        unigram,
        SIZES
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "position_biased_input": False,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "type_vocab_size": 0,
        },
    ),
    "DistilBERT": (
        "DistilBert",
        wordpiece,
        {"dim": WIDTH, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": POSITIONS},
    ),
    "ELECTRA": ("Electra", wordpiece, SIZES | {"embedding_size": 16}),
    "EuroBERT": ("EuroBert", byte_pairs, GROUPED),
    "GTE": ("Gte", wordpiece, SIZES),
    "jina-embeddings-v3": ("JinaEmbeddingsV3", unigram, SIZES | {"type_vocab_size": 1}),
    "ModernBERT": ("ModernBert", byte_pairs, SIZES | {"global_attn_every_n_layers": 2, "local_attention": 16}),
    "MPNet": ("MPNet", wordpiece, SIZES),
    "NomicBERT": ("NomicBert", wordpiece, SIZES),
    "RoBERTa": ("Roberta", byte_pairs, SIZES | {"type_vocab_size": 1}),
    "T5": ("T5", unigram, {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}),
    "UltraBERT": ("Ultrabert", byte_pairs, SIZES),
    "XLM-RoBERTa": ("XLMRoberta", unigram, SIZES | {"type_vocab_size": 1}),
}
"""By name: the prefix of the architecture's classes, its tokenizer, and the arguments of its config."""

DECODERS: dict[str, Family] = {
    "Cohere": ("Cohere", decoder_pairs, GROUPED),
    "EmbeddingGemma 2": (
        "EmbeddingGemma2Text",
        decoder_pairs,
        DECODER | {"sliding_window": 16, "embedding_dim": WIDTH},
    ),
    "Gemma": ("Gemma", decoder_pairs, DECODER),
    "Gemma 2": (
        "Gemma2",
        decoder_pairs,
        DECODER | {"query_pre_attn_scalar": 8, "sliding_window": 16, "attn_logit_softcapping": 2.0},
    ),
    "Gemma 3": ("Gemma3Text", decoder_pairs, DECODER | {"query_pre_attn_scalar": 8, "sliding_window": 16}),
    "EmbeddingGemma": (
        "Gemma3Text",
        decoder_pairs,
        DECODER | {"query_pre_attn_scalar": 8, "sliding_window": 16, "use_bidirectional_attention": True},
    ),
    "GPT-2": ("GPT2", decoder_pairs, {"n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": POSITIONS}),
    "GPT-NeoX": ("GPTNeoX", decoder_pairs, SIZES),
    "Granite": ("Granite", decoder_pairs, GROUPED),
    "LFM2": ("Lfm2", decoder_pairs, DECODER | {"layer_types": ["conv", "full_attention", "conv"]}),
    "Llama": ("Llama", decoder_pairs, DECODER),
    "Llama, bidirectional": ("Llama", decoder_pairs, DECODER | {"is_causal": False}),
    "Ministral 3": ("Ministral3", decoder_pairs, DECODER),
    "Mistral": ("Mistral", decoder_pairs, DECODER | {"sliding_window": 16}),
    "ModernBERT decoder": (
        "ModernBertDecoder",
        decoder_pairs,
        SIZES | {"global_attn_every_n_layers": 2, "local_attention": 16},
    ),
    "OLMo 2": ("Olmo2", decoder_pairs, DECODER),
    "Phi": ("Phi", decoder_pairs, SIZES),
    "Phi 3": ("Phi3", decoder_pairs, DECODER),
    "Qwen2": ("Qwen2", decoder_pairs, GROUPED),
    "Qwen3": ("Qwen3", decoder_pairs, DECODER),
    "Qwen3, bidirectional": ("Qwen3", decoder_pairs, DECODER | {"is_causal": False}),
    "Qwen3-MoE": (
        "Qwen3Moe",
        decoder_pairs,
        DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "SmolLM3": ("SmolLM3", decoder_pairs, DECODER | {"no_rope_layers": [1, 0, 1]}),
}


def config(name: str, **more: Any) -> PretrainedConfig:
    """The config of a family, and its tokenizer's vocabulary and special tokens in it."""
    prefix, tokenizer, arguments = (ENCODERS | DECODERS)[name]
    made: PretrainedConfig = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(tokenizer()), pad_token_id=tokenizer().pad_token_id, **{**arguments, **more}
    )
    return made


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family."""
    return (ENCODERS | DECODERS)[name][1]()


def write(folder: Path, model: PreTrainedModel, tokens: PreTrainedTokenizerFast) -> Path:
    """Write a transformers folder."""
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def stir(model: torch.nn.Module) -> None:
    """Random weights of a size that tells: those of a fresh model leave its attention all but uniform."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, STIR * weight.shape[-1] ** -0.5)
            elif "norm" not in name.lower():
                weight.normal_(0, 0.1)


def write_plain(folder: Path, name: str = "BERT", **more: Any) -> Path:
    """A transformers folder of a family."""
    torch.manual_seed(0)
    model = base(name, **more)
    stir(model)
    return write(folder, model, tokenizer(name))


def base(name: str, **more: Any) -> PreTrainedModel:
    """A family's model without a head, of T5 only the encoder."""
    settings = config(name, **more)
    made: PreTrainedModel = T5EncoderModel(settings) if name == "T5" else AutoModel.from_config(settings)
    return made


def write_embedding(
    folder: Path, name: str = "BERT", pooling: str | tuple[str, ...] = "mean", *, dense: bool = False, **more: Any
) -> Path:
    """A folder of sentence-transformers."""
    transformer = Transformer(str(write_plain(folder / "transformer", name, **more)), max_seq_length=100)
    modules = [transformer, Pooling(WIDTH, pooling)]
    modules += [Dense(modules[-1].get_embedding_dimension(), 16)] if dense else []
    SentenceTransformer(modules=[*modules, Normalize()], device="cpu").save(str(folder / "model"))
    return folder / "model"


MODULES: Mapping[str, Callable[[], list[torch.nn.Module]]] = {
    "Dense on tokens": lambda: [Dense(WIDTH, 16, module_input_name="token_embeddings"), Pooling(16, "max")],
    "LayerNorm": lambda: [Pooling(WIDTH, "mean"), LayerNorm(WIDTH), Dropout(0.5), Dense(WIDTH, 16), Normalize()],
    "Normalize, Dense": lambda: [Pooling(WIDTH, "cls"), Normalize(), Dense(WIDTH, 16, use_residual=True)],
    "WeightedLayerPooling": lambda: [
        WeightedLayerPooling(WIDTH, num_hidden_layers=3, layer_start=1),
        Pooling(WIDTH, "mean"),
    ],
    "no prompt": lambda: [Pooling(WIDTH, ("mean", "weightedmean", "cls", "max"), include_prompt=False)],
}
"""What may stand behind a transformer, by what is special about it."""
PROMPTS = {"query": "a query about shells: ", "document": ""}


def write_modules(folder: Path, kind: str, name: str = "BERT") -> Path:
    """A folder of sentence-transformers with prompts and less usual modules."""
    layers = {"output_hidden_states": True} if kind == "WeightedLayerPooling" else {}
    transformer = Transformer(str(write_plain(folder / "transformer", name, **layers)), max_seq_length=100)
    torch.manual_seed(1)
    modules = [transformer, *MODULES[kind]()]
    for module in modules[1:]:
        for weight in module.parameters():
            torch.nn.init.normal_(weight, 0.5, 0.3)
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(folder / "model"))
    return folder / "model"


def write_static(folder: Path) -> Path:
    """A table of vectors, with a tokenizer that would put special tokens around texts."""
    torch.manual_seed(1)
    table = torch.randn(len(wordpiece()), WIDTH)
    module = StaticEmbedding(Tokenizer.from_str(wordpiece().backend_tokenizer.to_str()), embedding_weights=table)
    SentenceTransformer(modules=[module, Normalize()], prompts=PROMPTS, device="cpu").save(str(folder))
    return folder


def write_cross_encoder(folder: Path, name: str = "BERT", labels: int = 1, **more: Any) -> Path:
    """A sequence classifier."""
    torch.manual_seed(0)
    settings = config(name, num_labels=labels, **more)
    model = transformers.AutoModelForSequenceClassification.from_config(settings)
    stir(model)
    return write(folder, model, tokenizer(name))


def write_decoder_reranker(folder: Path, name: str = "Qwen3") -> Path:
    """A causal language model."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(name))
    stir(model)
    return write(folder, model, tokenizer(name))


def write_colbert(folder: Path, *, pylate: bool) -> Path:
    """A ColBERT model, as Stanford's code saves it or as PyLate does."""
    write_plain(folder, "BERT")
    torch.manual_seed(1)
    weight = {"linear.weight": torch.randn(8, WIDTH) / 6}
    if pylate:
        settings = {
            "query_prefix": "[unused0]",
            "document_prefix": "[unused1]",
            "query_length": 32,
            "document_length": 90,
            "attend_to_expansion_tokens": False,
            "skiplist_words": [",", ".", "?"],
        }
        (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
        (folder / "1_Dense").mkdir()
        save_file(weight, folder / "1_Dense" / "model.safetensors", {"format": "pt"})
        return folder
    encoder = {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(encoder | weight, folder / "model.safetensors", {"format": "pt"})
    settings = {"query_maxlen": 32, "doc_maxlen": 90, "mask_punctuation": True, "attend_to_mask_tokens": True}
    (folder / "artifact.metadata").write_text(json.dumps(settings))
    return folder


STIR = 0.7

VISION = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": IMAGE,
    "patch_size": 8,
}


def write_image_text(folder: Path, name: str) -> Path:
    """A checkpoint of CLIP, ChineseCLIP, SigLIP or SigLIP 2, with its image processor."""
    torch.manual_seed(0)
    text = SIZES | {"max_position_embeddings": 64}
    tokens = {"CLIP": clip_pairs, "ChineseCLIP": wordpiece}.get(name, decoder_pairs)()
    text |= {"vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id, "projection_size": WIDTH}
    text |= {"eos_token_id": tokens.eos_token_id, "bos_token_id": tokens.bos_token_id}
    vision = VISION | ({"num_patches": 16} if name == "SigLIP 2" else {})
    settings, processor = {
        "CLIP": (
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24),
            transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}),
        ),
        "ChineseCLIP": (
            transformers.ChineseCLIPConfig(
                text_config=text | {"max_position_embeddings": 100}, vision_config=vision, projection_dim=24
            ),
            transformers.ChineseCLIPImageProcessor(
                size={"height": IMAGE, "width": IMAGE},
                crop_size={"height": IMAGE, "width": IMAGE},
                do_center_crop=False,
            ),
        ),
        "SigLIP": (
            transformers.SiglipConfig(text_config=text, vision_config=vision),
            transformers.SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE}),
        ),
        "SigLIP 2": (
            transformers.Siglip2Config(text_config=text, vision_config=vision),
            transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16),
        ),
    }[name]
    model = AutoModel.from_config(settings)
    stir(model)
    processor.save_pretrained(folder)
    return write(folder, model, tokens)


def write_image_classifier(folder: Path, dimensions: int = WIDTH) -> Path:
    """An image tower whose logits are its embedding."""
    torch.manual_seed(0)
    settings = transformers.ViTConfig(**VISION, num_labels=dimensions)
    model = transformers.ViTForImageClassification(settings)
    stir(model)
    transformers.ViTImageProcessor(size={"height": IMAGE, "width": IMAGE}).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def rows(tower: Tower, *texts: str | tuple[str, str]) -> Rows:
    """Texts or pairs of them, as a tower's head is given them."""
    assert tower.vocabulary is not None
    encoded = [tower.vocabulary.tokenizer.encode(*((text,) if isinstance(text, str) else text)) for text in texts]
    length = torch.tensor([len(one.ids) for one in encoded])
    padded = [one.ids + [tower.vocabulary.padding] * (int(length.max()) - len(one.ids)) for one in encoded]
    first = torch.tensor([one.type_ids.index(1) if 1 in one.type_ids else len(one.ids) for one in encoded])
    return Rows(torch.tensor(padded), length, length, first if FIRST_LENGTH in tower.fields else None)
