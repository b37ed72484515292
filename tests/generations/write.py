"""Writes folders of many kinds by the libraries at hand, and what these libraries make of them.

Runs under either generation of transformers and sentence-transformers, so it imports nothing of Conch:

    PYTHONPATH=.generations/older .venv/bin/python -m tests.generations.write FOLDER

Each kind becomes FOLDER/KIND, random weights in a real architecture; what the library that wrote it answers, read from
the files again, goes to FOLDER/answers.json.
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
)
from sentence_transformers.sparse_encoder.modules import SpladePooling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.normalizers import BertNormalizer, Lowercase
from transformers import PreTrainedModel, PreTrainedTokenizerFast

IS_NEWER = transformers.__version__.startswith("5.")
TEXTS = Path("export/verification/samples.txt").read_text().splitlines()
ASKED = TEXTS[:6]
WIDTH = 32
LIMIT = 64
IMAGE = 32
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
DECODER = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
CHAT = "{% for message in messages %}{{ message.role[0] }}: {{ message.content }}\n{% endfor %}a:"

Answers = Mapping[str, Any]


# Tokenizers


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return fast(tokenizer, pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")


@cache
def segmentless() -> PreTrainedTokenizerFast:
    """The same for models that know no segments."""
    tokens = wordpiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens.backend_tokenizer,
        model_max_length=LIMIT,
        model_input_names=["input_ids", "attention_mask"],
        **{name: str(token) for name, token in tokens.special_tokens_map.items()},
    )


@cache
def byte_pairs() -> PreTrainedTokenizerFast:
    """As Qwen's: an end of text behind every text, and the marks of a chat."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = [*TEXTS, *["yes", "no"] * 50]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    return fast(tokenizer, pad="<|endoftext|>", eos="<|endoftext|>")


@cache
def clip_pairs() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("<|startoftext|>", "<|endoftext|>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=marks
    )
    return fast(tokenizer, pad="<|endoftext|>", bos="<|startoftext|>", eos="<|endoftext|>")


def fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    names = {f"{name}_token": token for name, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LIMIT, **names)


# Models


def stir(model: torch.nn.Module) -> None:
    """Random weights of a size that tells: those of a fresh model leave its attention all but uniform."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.7 * weight.shape[-1] ** -0.5)
            elif "norm" not in name.lower():
                weight.normal_(0, 0.1)


def save(folder: Path, model: PreTrainedModel, tokens: PreTrainedTokenizerFast) -> Path:
    stir(model)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def make(folder: Path, family: str, tokens: PreTrainedTokenizerFast, head: str = "Model", **settings: Any) -> Path:
    """A transformers folder of a family."""
    arguments = {**settings, "vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id}
    config = getattr(transformers, f"{family}Config")(**arguments)
    return save(folder, getattr(transformers, f"{family}{head}")(config), tokens)


def bert(folder: Path, head: str = "Model", **settings: Any) -> Path:
    return make(folder, "Bert", wordpiece(), head, **SIZES, **settings)


def transformer(folder: Path, **options: Any) -> Transformer:
    made: Transformer = Transformer(str(folder), max_seq_length=LIMIT, **options)
    return made


def embedding(folder: Path, *modules: torch.nn.Module, **options: Any) -> None:
    for module in modules[1:]:
        stir(module)
    SentenceTransformer(modules=list(modules), device="cpu", **options).save(str(folder))


def stands_on_bert(*modules: Callable[[], torch.nn.Module], **options: Any) -> Callable[[Path], None]:
    """A writer of BERT with modules behind it."""

    def write(folder: Path) -> None:
        encoder = transformer(bert(folder.with_suffix(".base")))
        embedding(folder, encoder, *(module() for module in modules), **options)

    return write


def mean() -> Pooling:
    pooling: Pooling = Pooling(WIDTH, "mean")
    return pooling


def tokens_dense(width: int, out: int, **options: Any) -> Callable[[], Dense]:
    return lambda: Dense(width, out, module_input_name="token_embeddings", **options)


def decoder(family: str, **settings: Any) -> Callable[[Path], None]:
    """A writer of a decoder whose last token counts."""

    def write(folder: Path) -> None:
        base = make(folder.with_suffix(".base"), family, byte_pairs(), **DECODER, **settings)
        embedding(folder, transformer(base), Pooling(WIDTH, "lasttoken"), Normalize())

    return write


def rope(older: Mapping[str, Any], newer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same settings in the words of the generation at hand."""
    return {"rope_parameters": newer} if IS_NEWER else older


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
GLOBAL_AND_LOCAL = {
    "full_attention": {"rope_type": "default", "rope_theta": 400.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
}


def modernbert(folder: Path) -> None:
    settings = rope({"global_rope_theta": 400.0, "local_rope_theta": 30.0}, GLOBAL_AND_LOCAL)
    more: dict[str, Any] = {"num_hidden_layers": 3, "global_attn_every_n_layers": 2, "local_attention": 16}
    more |= {} if IS_NEWER else {"reference_compile": False}
    special: dict[str, Any] = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    base = make(folder.with_suffix(".base"), "ModernBert", segmentless(), **SIZES | more, **settings, **special)
    embedding(folder, transformer(base), Pooling(WIDTH, "cls"), Normalize())


def with_bert_tokenizer(folder: Path, head: str = "Model", **settings: Any) -> Path:
    """A BERT folder with the tokenizer class that BERT has."""
    plain = bert(folder, head, **settings)
    tokenizer_class: Any = getattr(transformers, "BertTokenizerFast")  # noqa: B009 - transformers 5 tells no type
    tokenizer_class.from_pretrained(plain, model_max_length=LIMIT).save_pretrained(plain)
    return plain


def bert_tokenizer(folder: Path) -> None:
    embedding(folder, transformer(with_bert_tokenizer(folder.with_suffix(".base"))), mean(), Normalize())


def weighted_layers(folder: Path) -> None:
    base = bert(folder.with_suffix(".base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"output_hidden_states": True}))
    layers = WeightedLayerPooling(WIDTH, num_hidden_layers=2, layer_start=1)
    layers.layer_weights.data = torch.tensor([1.0, 3.0])
    SentenceTransformer(modules=[transformer(base), layers, mean()], device="cpu").save(str(folder))


def old_layout(folder: Path) -> None:
    """As sentence-transformers 1 wrote it: the transformer in a folder of its own."""
    stands_on_bert(mean)(folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and not file.name.startswith(("modules", "config_sentence", "README")):
            file.rename(inner / file.name)
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            ]
        )
    )


def static(folder: Path) -> None:
    embedding_bag = StaticEmbedding(wordpiece(), embedding_dim=WIDTH)
    stir(embedding_bag)
    SentenceTransformer(modules=[embedding_bag], device="cpu").save(str(folder))


def router(folder: Path) -> None:
    """Queries by a lookup, documents by BERT."""
    lookup = StaticEmbedding(wordpiece(), embedding_dim=WIDTH)
    stir(lookup)
    sides = Router.for_query_document(
        query_modules=[lookup], document_modules=[transformer(bert(folder.with_suffix(".base"))), mean()]
    )
    SentenceTransformer(modules=[sides, Normalize()], device="cpu").save(str(folder))


def adapter(folder: Path, *, alone: bool = False) -> None:
    """A LoRA adapter beside its base, as PEFT writes it, or alone."""
    base = with_bert_tokenizer(folder.with_suffix(".base"))
    embedding(folder, transformer(base), mean())
    torch.manual_seed(2)
    weights: dict[str, torch.Tensor] = {}
    for layer in range(SIZES["num_hidden_layers"]):
        for name in ("query", "value"):
            at = f"base_model.model.encoder.layer.{layer}.attention.self.{name}"
            weights[f"{at}.lora_A.weight"] = torch.randn(4, WIDTH) / 6
            weights[f"{at}.lora_B.weight"] = torch.randn(WIDTH, 4) / 2
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    settings: dict[str, Any] = {"peft_type": "LORA", "task_type": "FEATURE_EXTRACTION"}
    settings |= {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "bias": "none", "inference_mode": True}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "example/base"}))
    if alone:
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()


def adapted(folder: Path) -> Answers:
    """Vectors of ASKED by the adapter's base with the adapter added: W + B A alpha / r (Hu 2021, arXiv 2106.09685).

    transformers 5.24 asks for a PEFT that there is not, and both look for the base by its name on the hub.
    """
    model = SentenceTransformer(modules=[transformer(folder.with_suffix(".base")), mean()], device="cpu")
    added = load_file(folder / "adapter_model.safetensors")
    encoder: Any = model[0]
    weights = dict(encoder.auto_model.named_parameters())
    for name, down in added.items():
        if "lora_A" in name:
            at = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            weights[at].data += added[name.replace("lora_A", "lora_B")] @ down * 2
    return {"": model.encode(ASKED, normalize_embeddings=True).tolist()}


# Multi-vector models


def multi_vector(folder: Path) -> None:
    from sentence_transformers import MultiVectorEncoder  # noqa: PLC0415 - the older generation has none
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask  # noqa: PLC0415

    base = transformer(
        bert(folder.with_suffix(".base")), query_expansion={"strategy": "fixed", "attend": False, "length": 24}
    )
    layers = [tokens_dense(WIDTH, 24, activation_function=torch.nn.Tanh())(), tokens_dense(24, 8, bias=False)()]
    layers[1].activation_function = torch.nn.Identity()
    for layer in layers:
        stir(layer)
    modules: list[torch.nn.Module] = [
        base,
        *layers,
        MultiVectorMask(skiplist_words=[",", ".", "?"]),
        Normalize("token_embeddings"),
    ]
    prompts = {"query": "[unused0] ", "document": "[unused1] "}
    MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu").save(str(folder))


def pylate(folder: Path) -> None:
    """As PyLate 1 wrote it."""
    bert(folder)
    torch.manual_seed(1)
    for index, (width, out) in ((1, (WIDTH, 24)), (2, (24, 8))):
        dense = folder / f"{index}_Dense"
        dense.mkdir()
        settings: dict[str, Any] = {"in_features": width, "out_features": out, "bias": False}
        settings |= {"activation_function": "torch.nn.modules.linear.Identity"}
        (dense / "config.json").write_text(json.dumps(settings))
        save_file({"linear.weight": torch.randn(out, width) / 5}, dense / "model.safetensors", {"format": "pt"})
    modules: list[dict[str, Any]] = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    ]
    modules += [{"idx": i, "name": str(i), "path": f"{i}_Dense", "type": "pylate.models.Dense.Dense"} for i in (1, 2)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LIMIT, "do_lower_case": False}))
    settings = {
        "model_type": "ColBERT",
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "query_length": 24,
        "document_length": LIMIT,
        "do_query_expansion": True,
        "attend_to_expansion_tokens": False,
        "skiplist_words": [",", ".", "?"],
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))


def stanford(folder: Path) -> None:
    """As Stanford's ColBERT wrote it."""
    bert(folder)
    torch.manual_seed(1)
    weights = {f"bert.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(8, WIDTH) / 5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    settings: dict[str, Any] = {
        "query_maxlen": 24,
        "doc_maxlen": LIMIT,
        "mask_punctuation": True,
        "attend_to_mask_tokens": False,
    }
    (folder / "artifact.metadata").write_text(json.dumps(settings))


# Cross-encoders


def cross(labels: int = 1, **options: Any) -> Callable[[Path], None]:
    """A writer of a BERT cross-encoder with its own tokenizer class, saved by CrossEncoder."""

    def save_again(folder: Path) -> None:
        base = with_bert_tokenizer(folder.with_suffix(".base"), "ForSequenceClassification", num_labels=labels)
        CrossEncoder(str(base), device="cpu", **options).save_pretrained(str(folder))

    return save_again


def plain_cross(folder: Path) -> None:
    """With the tokenizer class of no model in particular, which gives segments in transformers 4 and none in 5."""
    bert(folder, "ForSequenceClassification", num_labels=1)


def causal(folder: Path) -> Path:
    return make(folder, "Qwen3", byte_pairs(), "ForCausalLM", **DECODER)


def logit_score(folder: Path) -> None:
    """A reranker that answers by two tokens of its own, behind a chat template."""
    base = causal(folder.with_suffix(".base"))
    vocabulary = byte_pairs().get_vocab()
    scored = LogitScore(true_token_id=vocabulary["yes"], false_token_id=vocabulary["no"])
    reader = transformer(base, transformer_task="text-generation", processor_kwargs={"chat_template": CHAT})
    reader.max_seq_length = 100  # of which the template takes a third
    CrossEncoder(modules=[reader, scored], device="cpu").save_pretrained(str(folder))


# Others


def splade(folder: Path) -> None:
    base = bert(folder.with_suffix(".base"), "ForMaskedLM")
    SparseEncoder(modules=[transformer(base, transformer_task="fill-mask"), SpladePooling()], device="cpu").save(
        str(folder)
    )


def mamba(folder: Path) -> None:
    settings: dict[str, Any] = {"hidden_size": WIDTH, "state_size": 8, "num_hidden_layers": 2}
    base = make(folder.with_suffix(".base"), "Mamba", byte_pairs(), **settings)
    embedding(folder, transformer(base), Pooling(WIDTH, "lasttoken"))


def clip(folder: Path) -> None:
    tokens = clip_pairs()
    text = SIZES | {"max_position_embeddings": LIMIT, "vocab_size": len(tokens), "pad_token_id": tokens.pad_token_id}
    text |= {"eos_token_id": tokens.eos_token_id, "bos_token_id": tokens.bos_token_id}
    vision = {key: SIZES[key] for key in SIZES if key != "max_position_embeddings"}
    vision |= {"image_size": IMAGE, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    size = {"height": IMAGE, "width": IMAGE}
    transformers.CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=size).save_pretrained(folder)
    save(folder, transformers.CLIPModel(config), tokens)


# What the library at hand answers


def encoded(folder: Path) -> Answers:
    """Vectors of ASKED, as queries and documents too."""
    model = SentenceTransformer(str(folder), device="cpu")
    calls: dict[str, Any] = {"": model.encode, "query": model.encode_query, "document": model.encode_document}
    return {name: call(ASKED, normalize_embeddings=True).tolist() for name, call in calls.items()}


def encoded_plainly(folder: Path) -> Answers:
    """Vectors of a folder without modules, by the mean."""
    model = SentenceTransformer(modules=[transformer(folder), mean()], device="cpu")
    return {"": model.encode(ASKED, normalize_embeddings=True).tolist()}


def predicted(folder: Path) -> Answers:
    """Scores of pairs: of the last class where there are several."""
    model = CrossEncoder(str(folder), device="cpu")
    scores = model.predict([(ASKED[0], text) for text in ASKED], apply_softmax=model.num_labels > 1)
    return {"rerank": (scores if scores.ndim == 1 else scores[:, -1]).tolist()}


def interacted(folder: Path) -> Answers:
    """Scores of pairs by MaxSim, as means; nothing where the library knows no multi-vector models."""
    if not IS_NEWER:
        return {}
    from sentence_transformers import MultiVectorEncoder  # noqa: PLC0415

    model = MultiVectorEncoder(str(folder), device="cpu", similarity_fn_name="meanmaxsim")
    scores = model.similarity(model.encode_query(ASKED[:1]), model.encode_document(ASKED))
    return {"rerank": scores[0].tolist()}


def unread(_: Path) -> Answers:
    """Nothing: it is not served, or by another call."""
    return {}


Kind = tuple[Callable[[Path], object], Callable[[Path], Answers]]

PROMPTS = {"query": "query: ", "document": "passage: "}
KINDS: dict[str, Kind] = {
    "bert": (stands_on_bert(mean, Normalize), encoded),
    "bert-plain": (bert, encoded_plainly),
    "bert-tokenizer": (bert_tokenizer, encoded),
    "two-poolings": (stands_on_bert(lambda: Pooling(WIDTH, ("cls", "mean"))), encoded),
    "qwen3-theta": (
        decoder("Qwen3", **rope({"rope_theta": 50.0}, {"rope_type": "default", "rope_theta": 50.0})),
        encoded,
    ),
    "qwen3-yarn": (
        decoder("Qwen3", **rope({"rope_theta": 500.0, "rope_scaling": YARN}, YARN | {"rope_theta": 500.0})),
        encoded,
    ),
    "llama3-scaling": (
        decoder("Llama", **rope({"rope_theta": 500.0, "rope_scaling": LLAMA3}, LLAMA3 | {"rope_theta": 500.0})),
        encoded,
    ),
    "gemma3-local": (
        decoder(
            "Gemma3Text",
            query_pre_attn_scalar=8,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
            **rope({"rope_theta": 400.0, "rope_local_base_freq": 30.0}, GLOBAL_AND_LOCAL),
        ),
        encoded,
    ),
    "modernbert": (modernbert, encoded),
    "dense-tanh": (stands_on_bert(mean, lambda: Dense(WIDTH, 16), Normalize), encoded),
    "dense-gelu": (stands_on_bert(mean, lambda: Dense(WIDTH, 16, activation_function=torch.nn.GELU())), encoded),
    "dense-on-tokens": (stands_on_bert(tokens_dense(WIDTH, 16), lambda: Pooling(16, "mean"), Normalize), encoded),
    "layer-norm": (stands_on_bert(mean, lambda: LayerNorm(WIDTH)), encoded),
    "dropout": (stands_on_bert(mean, lambda: Dropout(0.5)), encoded),
    "weighted-layers": (weighted_layers, encoded),
    "prompt-left-out": (stands_on_bert(lambda: Pooling(WIDTH, "mean", include_prompt=False), prompts=PROMPTS), encoded),
    "prompts": (stands_on_bert(mean, Normalize, prompts=PROMPTS), encoded),
    "prompt-default": (stands_on_bert(mean, prompts=PROMPTS, default_prompt_name="document"), encoded),
    "prompt-of-its-own": (stands_on_bert(mean, prompts={"news": "news: "}, default_prompt_name="news"), encoded),
    "truncate-dim": (stands_on_bert(mean, Normalize, truncate_dim=16), encoded),
    "old-layout": (old_layout, encoded),
    "static": (static, encoded),
    "router": (router, encoded),
    "adapter": (adapter, adapted),
    "adapter-alone": (partial(adapter, alone=True), unread),
    "multi-vector": (multi_vector, interacted),
    "pylate": (pylate, interacted),
    "stanford": (stanford, interacted),
    "cross": (cross(), predicted),
    "cross-plain": (plain_cross, predicted),
    "cross-identity": (cross(activation_fn=torch.nn.Identity()), predicted),
    "cross-tanh": (cross(activation_fn=torch.nn.Tanh()), predicted),
    "cross-prompt": (cross(prompts={"web": "search: "}, default_prompt_name="web"), predicted),
    "cross-labels": (cross(3), predicted),
    "logit-score": (logit_score, predicted),
    "causal": (causal, unread),
    "splade": (splade, unread),
    "mamba": (mamba, unread),
    "clip": (clip, unread),
}
"""What is written, and how it is read again."""


def main(folder: Path) -> None:
    """Write all kinds that the libraries at hand know."""
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    answers: dict[str, Answers] = {}
    for name, (write, read) in KINDS.items():
        if name == "multi-vector" and not IS_NEWER:
            continue
        write(folder / name)
        answers[name] = read(folder / name)
        shutil.rmtree((folder / name).with_suffix(".base"), ignore_errors=True)
    (folder / "answers.json").write_text(json.dumps({"texts": ASKED, "answers": answers}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
