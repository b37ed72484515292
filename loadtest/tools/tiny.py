"""Tiny models of real architectures with random weights and tokenizers of their kind, as folders of files."""

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
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
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, T5EncoderModel

from export.packing.rows import Rows
from export.runtime.contract import FIRST_LENGTH
from export.tower import Tower

TEXTS = Path("export/verification/samples.txt").read_text().splitlines()
POSITIONS = 128
WIDTH = 32
IMAGE = 32

SIZES: dict[str, Any] = {
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
def gemma_pairs() -> PreTrainedTokenizerFast:
    """As Gemma's: spaces are letters, line ends stand alone, and a row begins with <bos>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[^▁\n]+|▁|\n"), "isolated")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=letters)
    tokenizer.train_from_iterator([*TEXTS, "A:\nB:", *["Yes", "No"] * 50], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return _fast(tokenizer, pad="<pad>", eos="<eos>", bos="<bos>", unk="<unk>")


@cache
def siglip2_pairs() -> PreTrainedTokenizerFast:
    """As SigLIP 2's: Gemma's with an end behind every text."""
    tokenizer = Tokenizer.from_str(gemma_pairs().backend_tokenizer.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    # The model sees what fills a text up, too.
    return _fast(tokenizer, ("input_ids",), pad="<pad>", eos="<eos>", bos="<bos>", unk="<unk>", mask="<mask>")


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


def _fast(tokenizer: Tokenizer, inputs: Sequence[str] = (), **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer with its special tokens and, if it does not make all that others do, the inputs of its model."""
    names: dict[str, Any] = {f"{name}_token": token for name, token in special.items()}
    if inputs:
        names["model_input_names"] = list(inputs)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=100, padding_side="right", **names)


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
    made: PreTrainedModel = T5EncoderModel._from_config(settings) if name == "T5" else AutoModel.from_config(settings)
    return made


def write_embedding(
    folder: Path,
    name: str = "BERT",
    pooling: str | tuple[str, ...] = "mean",
    *,
    dense: bool = False,
    max_seq_length: int = 100,
    **more: Any,
) -> Path:
    """A folder of sentence-transformers."""
    transformer = Transformer(str(write_plain(folder / "transformer", name, **more)), max_seq_length=max_seq_length)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling)]
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


def write_router(folder: Path) -> Path:
    """Queries looked up in a table, documents through a transformer, and one normalization for both."""
    transformer = Transformer(str(write_plain(folder / "transformer")), max_seq_length=100)
    static: Any = SentenceTransformer(str(write_static(folder / "static")), device="cpu")[0]
    router = Router.for_query_document([static], [transformer, Pooling(WIDTH, "mean")])
    modules: list[torch.nn.Module] = [router, Dense(WIDTH, 16), Normalize()]
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(folder / "model"))
    return folder / "model"


def write_adapters(folder: Path, names: Sequence[str], name: str = "BERT") -> Path:
    """A folder with LoRA adapters of one base, each in a folder of its own, or with an empty name beside the base."""
    source = write_embedding(folder, name)
    modules = {"BERT": ["query", "value", "dense"], "Qwen3": ["q_proj", "v_proj", "down_proj"]}[name]
    adapt(folder, source, names, modules)
    return source


def adapt(folder: Path, source: Path, names: Sequence[str], modules: Sequence[str]) -> None:
    """Add LoRA adapters to a folder of sentence-transformers.

    Args:
        folder: has its model as transformers saves it, in `transformer`.
        source: the folder.
        names: of the adapters; of one beside the base, an empty one.
        modules: the ends of the names of those that they change.
    """
    for seed, adapter in enumerate(names):
        base = AutoModel.from_pretrained(folder / "transformer")
        with warnings.catch_warnings():  # PEFT asks for what transformers has renamed
            warnings.simplefilter("ignore")
            model = PeftModel(base, LoraConfig(r=4, lora_alpha=8, target_modules=list(modules)))
        torch.manual_seed(seed + 2)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(weight, 0, 0.2)
        model.save_pretrained(str(folder / f"adapter-{seed}"))
        target = source / "adapters" / adapter if adapter else source
        target.mkdir(parents=True, exist_ok=True)
        for file in (folder / f"adapter-{seed}").glob("adapter_*"):
            file.rename(target / file.name)


def write_masked(folder: Path, name: str = "BERT", **more: Any) -> Path:
    """A masked language model for whose texts few words of the vocabulary have a weight, where it has a bias."""
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(config(name, **more))
    stir(model)
    decoder: Any = model.get_output_embeddings()
    with torch.no_grad():
        if decoder.bias is not None:
            decoder.bias.normal_(-1, 0.5)
    return write(folder, model, tokenizer(name))


def write_splade(folder: Path, name: str = "BERT", *, max_active_dims: int | None = None, **pooling: Any) -> Path:
    """A folder of SPLADE as sentence-transformers saves it.

    Args:
        folder: where it is written.
        name: its family.
        max_active_dims: the most words of a text.
        pooling: of its SpladePooling.
    """
    source = write_masked(folder / "transformer", name)
    transformer = Transformer(str(source), transformer_task="fill-mask", max_seq_length=100)
    modules = [transformer, SpladePooling(**pooling)]
    SparseEncoder(modules=modules, max_active_dims=max_active_dims, device="cpu").save(str(folder / "model"))
    return folder / "model"


def write_inference_free(folder: Path, name: str = "DistilBERT") -> Path:
    """A sparse model whose queries are looked up in a table of weights, as OpenSearch's."""
    transformer = Transformer(
        str(write_masked(folder / "transformer", name)), transformer_task="fill-mask", max_seq_length=100
    )
    torch.manual_seed(1)
    weights = torch.rand(len(tokenizer(name))) * 5
    weights[::7] = 0
    router = Router.for_query_document(
        [SparseStaticEmbedding(cast(Any, tokenizer(name)), weights, frozen=True)],
        [transformer, SpladePooling("max", activation_function="log1p_relu")],
    )
    SparseEncoder(modules=[router], device="cpu").save(str(folder / "model"))
    return folder / "model"


def write_m3(folder: Path, *, hidden_size: int = WIDTH, **more: Any) -> Path:
    """A model of the kind of bge-m3: an embedding model, and two linear layers as FlagEmbedding saves them."""
    source = write_embedding(folder, "XLM-RoBERTa", "cls", hidden_size=hidden_size, **more)
    torch.manual_seed(1)
    torch.save(torch.nn.Linear(hidden_size, hidden_size).state_dict(), source / "colbert_linear.pt")
    torch.save(torch.nn.Linear(hidden_size, 1).state_dict(), source / "sparse_linear.pt")
    return source


def write_cross_encoder(
    folder: Path, name: str = "BERT", labels: int = 1, tokenizer_class: str = "BertTokenizer", **more: Any
) -> Path:
    """A sequence classifier; BERT's tokenizer tells segments by its class."""
    torch.manual_seed(0)
    settings = config(name, num_labels=labels, **more)
    model = transformers.AutoModelForSequenceClassification.from_config(settings)
    stir(model)
    write(folder, model, tokenizer(name))
    if name == "BERT":
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": tokenizer_class}))
    return folder


def write_saved_cross_encoder(folder: Path, name: str = "BERT", labels: int = 1, **settings: Any) -> Path:
    """A classifier as sentence-transformers saves it, with settings of its CrossEncoder."""
    source = write_cross_encoder(folder / "transformer", name, labels)
    CrossEncoder(str(source), device="cpu", **settings).save(str(folder / "saved"))
    return folder / "saved"


def write_decoder_reranker(
    folder: Path, name: str = "Qwen3", tokens: Callable[[], PreTrainedTokenizerFast] = decoder_pairs, **more: Any
) -> Path:
    """A causal language model."""
    torch.manual_seed(0)
    settings = config(name, **more)
    settings.vocab_size, settings.pad_token_id = len(tokens()), tokens().pad_token_id
    model = transformers.AutoModelForCausalLM.from_config(settings)
    stir(model)
    return write(folder, model, tokens())


PAIRS_TEMPLATE = (
    "<|im_start|>{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first"
    " | default('Is it about it?') }}\nQuery: {{ messages | selectattr('role', 'eq', 'query')"
    " | map(attribute='content') | first }}\nDocument: {{ messages | selectattr('role', 'eq', 'document')"
    " | map(attribute='content') | first }}\nAnswer:<|im_end|>"
)
"""A chat template as sentence-transformers has it for pairs: the prompt is the system's message."""


def write_logit_score(
    folder: Path,
    name: str = "Qwen3",
    chat_template: str | None = None,
    answers: tuple[int, int | None] = (5, 6),
    **settings: Any,
) -> Path:
    """A causal language model that ranks as sentence-transformers saves it."""
    source = write_decoder_reranker(folder / "transformer", name)
    arguments = {"chat_template": chat_template} if chat_template else {}
    transformer = Transformer(str(source), transformer_task="text-generation", processor_kwargs=arguments)
    CrossEncoder(modules=[transformer, LogitScore(*answers)], device="cpu", **settings).save(str(folder / "saved"))
    return folder / "saved"


def write_multi_vector(folder: Path, name: str = "BERT", **settings: Any) -> Path:
    """A folder of sentence-transformers' MultiVectorEncoder, whose projection has three layers.

    Args:
        folder: where it is written.
        name: its family.
        settings: of its Transformer module, such as `query_expansion`.
    """
    transformer = Transformer(str(write_plain(folder / "transformer", name)), **settings)
    torch.manual_seed(1)
    wide = Dense(WIDTH, 24, activation_function=torch.nn.GELU(), module_input_name=TOKENS, use_residual=True)
    same = Dense(24, 24, activation_function=torch.nn.Tanh(), module_input_name=TOKENS, use_residual=True)
    narrow = Dense(24, 8, bias=False, activation_function=None, module_input_name=TOKENS)
    mask = MultiVectorMask([",", "."])
    modules = [transformer, wide, same, narrow, mask, Normalize(TOKENS)]
    prompts = {"query": "[unused0] ", "document": "[unused1] "}
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save(str(folder / "model"))
    return folder / "model"


def write_colbert(folder: Path, *, pylate: bool) -> Path:
    """A ColBERT model, as Stanford's code saves it or as PyLate does."""
    return write_pylate(folder) if pylate else write_stanford(folder)


def write_stanford(folder: Path, **settings: Any) -> Path:
    """A ColBERT model as Stanford's code saves it, with further settings in its artifact.metadata."""
    write_plain(folder, "BERT")
    torch.manual_seed(1)
    weights = {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights | {"linear.weight": torch.randn(8, WIDTH) / 6}, folder / "model.safetensors", {"format": "pt"})
    revise(folder / "config.json", architectures=["HF_ColBERT"])
    metadata: dict[str, Any] = {
        "query_maxlen": 32,
        "doc_maxlen": 90,
        "mask_punctuation": True,
        "attend_to_mask_tokens": True,
    }
    metadata |= {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "dim": 8, "similarity": "cosine"}
    (folder / "artifact.metadata").write_text(json.dumps(metadata | settings))
    return folder


def write_pylate(
    folder: Path, prefixes: tuple[str, str] = ("[unused0]", "[unused1]"), *, dense: int = 1, **settings: Any
) -> Path:
    """A ColBERT model as PyLate 1.6 saves it.

    Args:
        folder: where it is written.
        prefixes: of queries and documents; those that the vocabulary does not have are added to it, as by PyLate.
        dense: how many layers project. All but the last have an activation and a residual.
        settings: changes of its config_sentence_transformers.json; None takes a key out.
    """
    tokens = copy.deepcopy(wordpiece())
    tokens.add_tokens(list(prefixes))
    torch.manual_seed(0)
    settings_of_model = config("BERT")
    settings_of_model.vocab_size = len(tokens)
    model = AutoModel.from_config(settings_of_model)
    stir(model)
    write(folder, model, tokens)
    torch.manual_seed(1)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i in range(1, dense + 1):
        last = i == dense
        layer = Dense(
            WIDTH,
            8 if last else WIDTH,
            bias=not last,
            activation_function=torch.nn.Identity() if last else torch.nn.GELU(),
        )
        (folder / f"{i}_Dense").mkdir(parents=True)
        save_file(layer.state_dict(), folder / f"{i}_Dense" / "model.safetensors")
        kept = ("in_features", "out_features", "bias", "activation_function")
        known = {key: layer.get_config_dict()[key] for key in kept} | {"use_residual": not last}
        (folder / f"{i}_Dense" / "config.json").write_text(json.dumps(known))
        modules.append({"idx": i, "name": str(i), "path": f"{i}_Dense", "type": "pylate.models.Dense.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 100, "do_lower_case": False}))
    saved: dict[str, Any] = {
        "model_type": "ColBERT",
        "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.9.1"},
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": prefixes[0],
        "document_prefix": prefixes[1],
        "query_length": 32,
        "document_length": 90,
        "attend_to_expansion_tokens": False,
        "skiplist_words": [",", ".", "?"],
        "do_query_expansion": True,
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(saved))
    revise(folder / "config_sentence_transformers.json", **settings)
    return folder


def revise(file: Path, **changes: Any) -> None:
    """Change keys of a JSON object; None takes one out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


TOKENS = "token_embeddings"
STIR = 0.7

VISION: dict[str, Any] = {
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
    tokens = {"CLIP": clip_pairs, "ChineseCLIP": wordpiece, "SigLIP": decoder_pairs, "SigLIP 2": siglip2_pairs}[name]()
    text |= {"vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id}
    text |= {"projection_size": WIDTH} if name.startswith("SigLIP") else {}
    text |= {"eos_token_id": tokens.eos_token_id, "bos_token_id": tokens.bos_token_id}
    vision = VISION
    if name == "SigLIP 2":  # which takes images of any size
        vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
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
    settings = transformers.ViTConfig(**VISION)
    settings.num_labels = dimensions
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


def padded(ids: Sequence[Sequence[int]]) -> Rows:
    """Rows of token ids, as a head is given them."""
    length = torch.tensor([len(row) for row in ids])
    return Rows(torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True), length, length)
