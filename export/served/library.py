"""Runs the models' own libraries on texts, pairs and images, for the answers that a gateway should give.

Each question is a request to the gateway beside the result of the library's own call on the same texts:
`SentenceTransformer.encode`, `SparseEncoder.encode`, `CrossEncoder.predict`, `MultiVectorEncoder.encode_query` and
`encode_document`, transformers' text-classification pipeline, or for images the image processor and the model of
transformers.
"""

import base64
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
)

from export.loading.models import (
    Model,
    architecture,
    load_model,
    load_processor,
    load_tokenizer,
    loading,
    model_options,
    read_settings,
)
from export.manifest import ModelSpec, Task
from export.plans.measures import SPARSE, Vectors
from export.rerankers import BORDER, DOCUMENT, QUERY, PairTemplate, Reranker, with_default
from export.runtime.contract import (
    EMBEDDING,
    QUERY_VECTORS,
    SCORE,
    SPARSE_INDICES,
    SPARSE_WEIGHTS,
    TOKEN_VECTORS,
)
from export.served.question import Limits, Question, question
from export.sources.resolve import Sources
from export.tasks import chat, classification, m3, pages, pair_template, sparse, text_embedding, variants
from export.tasks.chat import Content
from export.tasks.late_interaction import is_multi_vector
from export.tasks.vision_rows import reads_images
from export.tasks.vocabulary import MOST_TOKENS
from export.verification import samples

PURPOSES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "query": (("input_type", "query"), ("task", "retrieval.query"), ("input_type", "search_query")),
    "document": (("input_type", "passage"), ("task", "retrieval.passage"), ("input_type", "search_document")),
}
"""Fields of /v1/embeddings that say what texts are for, in the words of NIM, Jina and Cohere."""
PROMPTS_OF: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "retrieval.query", "question", "retrieval_query"),
    "document": ("document", "passage", "search_document", "retrieval.passage", "corpus", "retrieval_passage"),
}
"""Names that models give to the prompts and variants for each."""
CHEAP_TOKENS = 512
"""Longer limits are reached once: a row of 8,192 tokens takes the library seconds to minutes."""
QUERIES = ("How do I reset my password?", "Wie spät ist es in 東京? 🕰️")
UNCUT = {"text": {"truncation": False}}
"""Has the library read all of a text."""
SLOPES: Mapping[str, float] = {"none": 1.0, "sigmoid": 1 / 4, "softmax": 1 / 2}
"""The largest change of a score when its logit changes by 1."""


def questions(spec: ModelSpec, sources: Sources, limits: Limits, progress: Callable[[str], None]) -> list[Any]:
    """Ask a model's library, in fp32 and with the limit that is served.

    Args:
        spec: the table of a model whose source the export has accepted.
        sources: what it is made of.
        limits: the limits of the served model.
        progress: called with each question.

    Returns:
        Questions, as what JSON is made of.

    Raises:
        SourceError: the source cannot be loaded.
    """
    found = []
    for one in _ASKED[spec.task](spec, sources, limits):
        progress(f"ask the library of {spec.name}")
        found.append(msgspec.to_builtins(one))
    return found


def _texts(limits: Limits) -> list[str]:
    """Texts of many scripts and one that has to be cut."""
    return [*samples.TEXTS, *samples.ODD, samples.text(3, 8 * limits.max_tokens)]


def _again(limits: Limits) -> list[str]:
    """Texts for what is asked in one more way."""
    texts = _texts(limits)
    return texts[::4] + texts[-1:] if limits.max_tokens <= CHEAP_TOKENS else texts[:-1:4]


# Text embedding

Encode = Callable[..., Any]
"""The `encode` of sentence-transformers: texts to vectors."""


def _text_embedding(spec: ModelSpec, sources: Sources, limits: Limits) -> Iterator[Question]:
    model = text_embedding.pipeline(spec, sources.folder)
    yield from _embeddings(spec, model, limits)
    if reads_images(model[0]):
        yield from _contents(spec, model, limits)
    if spec.variants or model.default_prompt_name is not None:
        return
    if m3.is_m3(sources.folder):
        yield from _m3(spec, sources.folder, limits)
    elif TOKEN_VECTORS in limits.outputs:
        again = _again(limits)
        vectors = model.encode(again, output_value="token_embeddings", batch_size=1)  # of several, padding is left
        # Conch truncates them like the dense vectors that are their mean; the library does not.
        yield _tokens(spec, again, {}, [one[:, : model.truncate_dim] for one in vectors])


def _contents(spec: ModelSpec, model: Model, limits: Limits) -> Iterator[Question]:
    """Vectors of texts and images together: of objects of both, and of lists of them in any order."""
    purpose, encode = next(iter(_encoders(model).items()))

    def ask(
        items: Sequence[Mapping[str, Any]], contents: Sequence[Content], body: Mapping[str, Any], by: Encode
    ) -> Question:
        vectors = np.asarray(by([chat.message(content) for content in contents], normalize_embeddings=True), np.float32)
        body = {"model": spec.name, "input": list(items), **body}
        return question(spec.triton_names[0], "/v1/embeddings", body, [_seen(content) for content in contents], vectors)

    contents = _fitting(model, limits, chat.message, samples.contents())
    shown = [content for content in contents if len(content) < 3 and not isinstance(content[-1], str)]
    yield ask([_item(content) for content in shown], shown, {}, model.encode)
    parts = [{"content": [_part(part) for part in content]} for content in contents]
    yield ask(parts, contents, {}, model.encode)
    if not spec.variants:
        yield ask(parts[:3], contents[:3], dict(PURPOSES[purpose][:1]), encode)


def _fitting(
    model: Model, limits: Limits, messages: Callable[[Content], Any], contents: Sequence[Content]
) -> list[Content]:
    """The contents of no more tokens than are served: the library cuts longer ones through their images."""
    return [
        content
        for content in contents
        if model.preprocess([messages(content)], processing_kwargs=UNCUT)["input_ids"].shape[1] <= limits.max_tokens
    ]


def _item(content: Content) -> dict[str, str]:
    """A content of at most a text and an image behind it as an object."""
    return {
        "text" if isinstance(part, str) else "image": part if isinstance(part, str) else _url(part) for part in content
    }


def _part(part: str | Image.Image) -> dict[str, Any]:
    """A part of a content, as OpenAI spells it."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": _url(part)}}


def _url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _seen(content: Content) -> str:
    return ", ".join(_short(part) if isinstance(part, str) else f"an image of {part.size}" for part in content)


def _m3(spec: ModelSpec, folder: Path, limits: Limits) -> Iterator[Question]:
    """The other outputs of bge-m3, of which the library is FlagEmbedding: see export/tasks/m3.py."""
    (tower,) = m3.load(spec, folder)
    tokenizer, words = load_tokenizer(spec, folder), tower.vocabulary
    assert words is not None  # noqa: S101 - it is a model of texts

    def compute(query: str, document: str) -> dict[str, Vectors]:
        row = [tokenizer(text, truncation=True, max_length=limits.max_tokens).input_ids for text in (query, document)]
        with torch.inference_mode():
            found = tower.reference(tuple(np.array(ids, np.int64) for ids in row))
        return {name: np.asarray(values) for name, values in found.items()}

    def counted(vectors: Vectors) -> Vectors:
        return vectors[vectors.any(1)]

    texts = _again(limits)
    computed = [compute(QUERIES[0], text) for text in texts]
    weights = np.zeros((len(texts), words.size), np.float32)
    for row, one in zip(weights, computed, strict=True):
        row[one[SPARSE_INDICES]] = one[SPARSE_WEIGHTS]
    body = {"model": spec.name, "input": texts, "truncate": True, "embedding_type": "sparse"}
    shown = [_named(text, body) for text in texts]
    yield question(spec.triton_names[0], "/v1/embeddings", body, shown, weights, output=SPARSE)
    yield _tokens(spec, texts, {}, [counted(one[TOKEN_VECTORS]) for one in computed])
    if not tower.parameters["prompts"]:
        queries = [counted(compute(query, texts[0])[QUERY_VECTORS]) for query in QUERIES]
        yield _tokens(spec, QUERIES, {"input_type": "query"}, queries, QUERY_VECTORS)
        yield _pairs(spec, QUERIES[0], texts, lambda *_: np.concatenate([one[SCORE] for one in computed]))


def _tokens(
    spec: ModelSpec,
    texts: Sequence[str],
    body: Mapping[str, Any],
    vectors: Sequence[Vectors],
    output: str = TOKEN_VECTORS,
) -> Question:
    """The vectors of texts' tokens, [L, d] of each."""
    body = {"model": spec.name, "input": list(texts), "truncate": True, "embedding_type": "multi_vector", **body}
    shown = [
        f"token {place} of {_named(text, body)}"
        for text, own in zip(texts, vectors, strict=True)
        for place in range(len(own))
    ]
    numbers = np.concatenate([np.asarray(own, np.float32) for own in vectors])
    return question(spec.triton_names[0], "/v1/embeddings", body, shown, numbers, output=output)


def _sparse(spec: ModelSpec, sources: Sources, limits: Limits) -> Iterator[Question]:
    """The same with vectors of the whole vocabulary."""
    yield from _embeddings(spec, sparse.pipeline(spec, sources.folder), limits, is_sparse=True)


def _limit(spec: ModelSpec, model: Model, limits: Limits) -> None:
    """Have a model read no more tokens than are served. Routes of a model have limits of their own."""
    for module in model.modules():
        if isinstance(module, StaticEmbedding):
            own = (module.tokenizer.truncation or {}).get("max_length", MOST_TOKENS)
            module.tokenizer.enable_truncation(spec.max_tokens or min(own, MOST_TOKENS))
        elif isinstance(module, SparseStaticEmbedding):
            tokenizer: Model = module.tokenizer
            tokenizer.model_max_length = spec.max_tokens or min(tokenizer.model_max_length, MOST_TOKENS)
        elif isinstance(module, Transformer):
            module.max_seq_length = min(module.max_seq_length or limits.max_tokens, limits.max_tokens)


def _embeddings(spec: ModelSpec, model: Model, limits: Limits, *, is_sparse: bool = False) -> Iterator[Question]:
    """Vectors of texts: all together, one alone, for every purpose, variant and prompt, and of every size."""
    _limit(spec, model, limits)
    texts, again = _texts(limits), _again(limits)
    towers = dict(zip(spec.variants, spec.triton_names, strict=True)) if spec.variants else {}
    default = next(iter(spec.variants), "")
    options = {"convert_to_sparse_tensor": False} if is_sparse else {"normalize_embeddings": True}
    form = {"embedding_type": "sparse"} if is_sparse else {}

    def ask(given: Sequence[str], body: Mapping[str, Any], encode: Encode, variant: str = default) -> Question:
        adapter = variants.adapter(model[0], variant)
        if adapter is not None:
            model[0].auto_model.set_adapter(adapter)
        vectors = np.asarray(encode(list(given), **options), np.float32)
        body = {"model": spec.name, "input": list(given), "truncate": True, **form, **body}
        tower = towers.get(variant, spec.triton_names[0])
        shown = [_named(text, body) for text in given]
        return question(tower, "/v1/embeddings", body, shown, vectors, output=SPARSE if is_sparse else EMBEDDING)

    yield ask(texts, {}, model.encode)
    yield ask(texts[4:5], {} if is_sparse else {"encoding_format": "base64"}, model.encode)
    for size in limits.dimensions:
        yield ask(again, {"dimensions": size}, partial(model.encode, truncate_dim=size))
    for purpose, encode in _encoders(model).items():
        variant = next((name for name in (*PROMPTS_OF[purpose], "retrieval") if name in towers), default)
        for key, value in PURPOSES[purpose]:
            yield ask(again, {key: value}, encode, variant)
    for variant in towers.keys() - {"retrieval", *itertools.chain(*PROMPTS_OF.values())}:
        yield ask(again, {"task": variant}, partial(model.encode, task=variant), variant)
    for name, prompt in model.prompts.items():
        if prompt and not towers:
            yield ask(again, {"prompt_name": name}, partial(model.encode, prompt_name=name))


def _encoders(model: Model) -> dict[str, Encode]:
    """The library's calls for queries and documents, with the model's prompt for each, whatever it is called."""
    calls = {"query": model.encode_query, "document": model.encode_document}
    known = {purpose: [name for name in PROMPTS_OF[purpose] if model.prompts.get(name)] for purpose in calls}
    return {purpose: partial(call, prompt_name=next(iter(known[purpose]), None)) for purpose, call in calls.items()}


def _named(text: str, body: Mapping[str, Any]) -> str:
    more = [f"{key} {value!r}" for key, value in body.items() if key not in {"model", "input", "truncate"}]
    return " with ".join([_short(text), *more])


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _options(spec: ModelSpec) -> dict[str, Any]:
    return {
        "device": "cpu",
        "local_files_only": True,
        "trust_remote_code": spec.allow_remote_code,
        "model_kwargs": model_options(spec),
    }


# Cross-encoders


def _cross_encoder(spec: ModelSpec, sources: Sources, limits: Limits) -> Iterator[Question]:
    predict, slope, seeing = _predictor(spec, sources.folder, limits)
    documents = [*samples.TEXTS, *samples.ODD]
    # A query has at most half of a row, so the library, which shortens the longer text, cuts the document too.
    long_query, long_document = samples.text(1, limits.max_tokens // 4), samples.text(3, 8 * limits.max_tokens)
    yield _pairs(spec, QUERIES[0], [*documents, long_document], predict, slope)
    for query in (QUERIES[1], long_query):
        yield _pairs(spec, query, documents[::4], predict, slope)
    if seeing is not None:
        yield from _seen_pairs(spec, seeing, limits, slope)


def _seen_pairs(spec: ModelSpec, model: Model, limits: Limits, slope: float) -> Iterator[Question]:
    """Scores of documents that are texts, images and both, for a query of each kind."""
    queries: Sequence[Content] = ([QUERIES[0]], samples.contents()[1])
    for query in queries:
        documents = _fitting(model, limits, partial(chat.pair, query), samples.contents())
        documents = [content for content in documents if len(content) < 3 and not isinstance(content[-1], str)]
        scores = model.predict([chat.pair(query, content) for content in documents])
        body = {
            "model": spec.name,
            "query": query[0] if len(query) == 1 else _item(query),
            "documents": [_item(content) for content in documents],
            "return_documents": False,
        }
        shown = [f"{_seen(query)} with {_seen(content)}" for content in documents]
        yield question(spec.name, "/v1/rerank", body, shown, np.asarray(scores, np.float32)[:, None], slope)


Predict = Callable[[str, Sequence[str]], Vectors]


def _pairs(spec: ModelSpec, query: str, documents: Sequence[str], score: Predict, slope: float = 1.0) -> Question:
    body = {"model": spec.name, "query": query, "documents": list(documents), "return_documents": False}
    shown = [f"the query {_short(query)} with {_short(document)}" for document in documents]
    return question(spec.name, "/v1/rerank", body, shown, score(query, documents)[:, None], slope)


def _predictor(spec: ModelSpec, folder: Path, limits: Limits) -> tuple[Predict, float, Model | None]:
    """The library's scores, [n], how far the activation moves them at most, and a model that reads images too."""
    declared = (folder / "modules.json").is_file()
    named = pair_template.known(spec) if spec.template is not None or not declared else None
    if named is not None or spec.template is not None:
        return _answerer(spec, folder, named, limits), SLOPES["sigmoid"], None
    with loading(spec):
        model: Model = CrossEncoder(str(folder), **_options(spec))
    model.max_seq_length = limits.max_tokens
    is_sigmoid = isinstance(model.activation_fn, torch.nn.Sigmoid)
    if model.num_labels == 1:
        slope = SLOPES["sigmoid" if is_sigmoid else "none"]
        seeing = model if reads_images(model[0]) else None
        return lambda query, documents: model.predict([(query, document) for document in documents]), slope, seeing
    positive = {str(label): index for index, label in model.config.id2label.items()}[spec.positive_class or ""]

    def chosen(query: str, documents: Sequence[str]) -> Vectors:
        scores = model.predict([(query, document) for document in documents], apply_softmax=not is_sigmoid)
        return np.asarray(scores[:, positive], np.float32)

    return chosen, SLOPES["sigmoid" if is_sigmoid else "softmax"], None


def _answerer(spec: ModelSpec, folder: Path, named: Reranker | None, limits: Limits) -> Predict:
    """A scorer of pairs by a decoder: the sigmoid of its answer's logit, less the other answer's if there are two.

    A document is truncated as in the model card of Qwen3-Reranker: the text around it stays whole.
    """
    model, tokenizer = load_model(spec, AutoModelForCausalLM, folder), load_tokenizer(spec, folder)
    template = named.template if named is not None else PairTemplate(spec.template or "")
    if spec.instruction is not None:
        template = with_default(template.instructed or template.text, spec.instruction)
    before, after = template.text.split(DOCUMENT)

    def ids(text: str) -> list[int]:
        parts = [tokenizer(part, add_special_tokens=False).input_ids for part in text.split(BORDER)]
        return [token for part in parts for token in part]

    answers = (spec.true_token, spec.false_token)
    if spec.true_token is None and named is not None:
        answers = (named.true_token, named.false_token)
    tokens = [ids(answer)[0] for answer in answers if answer is not None]

    def score(query: str, documents: Sequence[str]) -> Vectors:
        found, behind = [], ids(after)
        for document in documents:
            row = ids(before.replace(QUERY, query) + document + after)
            if len(row) > limits.max_tokens:
                row = row[: limits.max_tokens - len(behind)] + behind
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
            likelier = logits[tokens[0]] - logits[tokens[1]] if len(tokens) > 1 else logits[tokens[0]]
            found.append(torch.sigmoid(likelier).item())
        return np.array(found, np.float32)

    return score


# Classification


def _classification(spec: ModelSpec, sources: Sources, limits: Limits) -> Iterator[Question]:
    module = classification.transformer(spec, sources.folder)
    model = module.model.eval()
    call = classification.pipeline(model, module.tokenizer)
    settings = read_settings(spec, sources.folder)
    how = classification.activation(model.config, settings)
    told = how if "activation_fn" in settings else None  # the pipeline does not read it, and otherwise chooses itself

    def ask(given: Sequence[str | tuple[str, str]]) -> Question:
        probabilities = []
        for one in given:
            text = {"text": one} if isinstance(one, str) else dict(zip(("text", "text_pair"), one, strict=True))
            features = call.preprocess(text, truncation=True, max_length=limits.max_tokens)
            scores = call.postprocess(call.forward(features), told, top_k=None)
            probabilities.append([score["score"] for score in scores])
        shown = [_short(one) if isinstance(one, str) else " with ".join(map(_short, one)) for one in given]
        body = {"model": spec.name, "input": list(given), "truncate": True}
        return question(spec.name, "/classify", body, shown, np.array(probabilities, np.float32), SLOPES[how])

    texts = _texts(limits)
    yield ask(texts)
    yield ask(texts[4:5])
    # The library shortens the longer text of a pair, and if they are as long, both.
    yield ask([(QUERIES[0], text) for text in texts[::4]])
    yield ask([(texts[-1], QUERIES[0]), (texts[-1], texts[-1])])


# Late interaction


def _late_interaction(spec: ModelSpec, sources: Sources, limits: Limits) -> Iterator[Question]:
    folder = sources.folder
    load = _multi_vector if is_multi_vector(folder) else _token_vectors
    score, vectors, seeing = load(spec, folder, limits)
    documents = [*samples.TEXTS, *samples.ODD]
    # Of a text in a template, the library cuts the template too.
    long = [samples.text(3, 8 * limits.max_tokens)] if seeing is None else []
    yield _pairs(spec, QUERIES[0], [*documents, *long], score)
    yield _pairs(spec, QUERIES[1], documents[::4], score)
    for purpose, output, texts in (("document", TOKEN_VECTORS, documents[::4]), ("query", QUERY_VECTORS, QUERIES)):
        if output in limits.outputs:
            yield _tokens(spec, texts, dict(PURPOSES[purpose][:1]), vectors(purpose, texts), output)
    if seeing is not None:
        yield from _pages(spec, seeing, limits)


def _pages(spec: ModelSpec, model: Model, limits: Limits) -> Iterator[Question]:
    """The vectors of pages' tokens, and scores of pages for a query."""
    images = [
        image
        for image in samples.pictures()
        if pages.read(model, image, "document")["input_ids"].shape[1] <= limits.max_tokens
    ]
    found = [pages.encode(model, image, "document") for image in images]
    items = [{"image": _url(image)} for image in images]
    names = [_seen([image]) for image in images]
    body = {"model": spec.name, "input": items, "embedding_type": "multi_vector", **dict(PURPOSES["document"][:1])}
    shown = [f"token {place} of {name}" for name, own in zip(names, found, strict=True) for place in range(len(own))]
    numbers = np.concatenate([np.asarray(own, np.float32) for own in found])
    yield question(spec.triton_names[0], "/v1/embeddings", body, shown, numbers, output=TOKEN_VECTORS)
    scores = model.similarity([pages.encode(model, QUERIES[0], "query")], found)[0].numpy()
    asked = {"model": spec.name, "query": QUERIES[0], "documents": items, "return_documents": False}
    yield question(spec.name, "/v1/rerank", asked, names, scores[:, None])


OfTokens = Callable[[str, Sequence[str]], list[Any]]
"""The vectors of texts' tokens for a purpose, [L, d] of each."""


def _multi_vector(spec: ModelSpec, folder: Path, limits: Limits) -> tuple[Predict, OfTokens, Model | None]:
    """MaxSim of the library, divided by the number of the query's vectors, as conch's scores are means.

    The model too, if it reads images.
    """
    with loading(spec):
        model: Model = MultiVectorEncoder(str(folder), similarity_fn_name="meanmaxsim", **_options(spec))
    model.max_seq_length = model[0].document_length = limits.max_tokens
    seeing = model if pages.reads_pages(model) else None
    encode = {"query": model.encode_query, "document": model.encode_document}

    def vectors(purpose: str, texts: Sequence[str]) -> list[Any]:
        if seeing is not None:
            return [pages.encode(seeing, text, purpose) for text in texts]
        return list(encode[purpose](list(texts)))

    def score(query: str, documents: Sequence[str]) -> Vectors:
        similarity = model.similarity(vectors("query", [query]), vectors("document", documents))
        return np.asarray(similarity[0].cpu(), np.float32)

    return score, vectors, seeing


def _token_vectors(spec: ModelSpec, folder: Path, limits: Limits) -> tuple[Predict, OfTokens, None]:
    """The mean over the query's tokens of the best cosine, of the token vectors of any embedding model."""
    with loading(spec):
        model: Model = SentenceTransformer(str(folder), **_options(spec))
    model.max_seq_length = limits.max_tokens

    encode = _encoders(model)

    def vectors(purpose: str, texts: Sequence[str]) -> list[Any]:
        found = encode[purpose](list(texts), output_value="token_embeddings")
        return [torch.nn.functional.normalize(one, dim=-1) for one in found]

    def score(query: str, documents: Sequence[str]) -> Vectors:
        (asked,) = vectors("query", [query])
        return np.array([(asked @ one.T).amax(1).mean().item() for one in vectors("document", documents)], np.float32)

    return score, vectors, None


# Image-text


def _image_text(spec: ModelSpec, sources: Sources, limits: Limits) -> Iterator[Question]:
    text_name, image_name = spec.triton_names
    if sources.image_folder is None:
        of_texts, of_images, files = _joint(spec, sources.folder, limits)
        texts = _texts(limits)
        body = {"model": spec.name, "input": texts, "truncate": True}
        yield question(text_name, "/v1/embeddings", body, [_short(text) for text in texts], of_texts(texts))
    else:
        model = text_embedding.pipeline(spec, sources.folder)
        yield from _embeddings(spec, model, limits)
        of_texts, of_images, files = _encoder(model), _images(spec, sources.image_folder), samples.files()
    given = [{"image": f"data:{file.media_type};base64,{base64.b64encode(file.content).decode()}"} for file in files]
    shown = [f"the {file.media_type} of {file.width} x {file.height}" for file in files]
    vectors = of_images([Image.open(io.BytesIO(file.content)).convert("RGB") for file in files])
    yield question(image_name, "/v1/embeddings", {"model": spec.name, "input": given}, shown, vectors)
    weight = 0.5 if spec.text_weight is None else spec.text_weight
    texts = list(samples.TEXTS[: len(files)])
    both = [{"text": text} | one for text, one in zip(texts, given, strict=True)]
    shown = [f"{_short(text)} and {one}" for text, one in zip(texts, shown, strict=True)]
    vectors = _unit(weight * of_texts(texts) + (1 - weight) * vectors)
    yield question(image_name, "/v1/embeddings", {"model": spec.name, "input": both}, shown, vectors)


OfTexts = Callable[[Sequence[str]], Vectors]
OfImages = Callable[[Sequence[Image.Image]], Vectors]


def _encoder(model: Model) -> OfTexts:
    return lambda texts: np.asarray(model.encode(list(texts), normalize_embeddings=True), np.float32)


def _joint(spec: ModelSpec, folder: Path, limits: Limits) -> tuple[OfTexts, OfImages, list[samples.File]]:
    """Vectors of texts and of images by one checkpoint, and which images.

    Only torch serves a SigLIP 2 model on images of any shape; others do on squares, which its processor leaves square.
    """
    model, tokenizer = load_model(spec, AutoModel, folder), load_tokenizer(spec, folder)
    padding = "max_length" if model.config.model_type.startswith("siglip") else False

    def of_texts(texts: Sequence[str]) -> Vectors:
        cut = {"truncation": True, "max_length": limits.max_tokens, "padding": padding, "return_tensors": "pt"}
        with torch.inference_mode():
            return _unit(torch.cat([_pooled(model.get_text_features(**tokenizer(text, **cut))) for text in texts]))

    processor = load_processor(spec, folder, "source")

    def of_images(images: Sequence[Image.Image]) -> Vectors:
        with torch.inference_mode():
            ready = [processor(image, return_tensors="pt") for image in images]
            return _unit(torch.cat([_pooled(model.get_image_features(**one)) for one in ready]))

    is_square = model.config.model_type == "siglip2" and spec.backend != "torch"
    return of_texts, of_images, [file for file in samples.files() if not is_square or file.width == file.height]


def _images(spec: ModelSpec, folder: Path) -> OfImages:
    """Vectors by an image tower of its own: a classifier's logits, or else the first token's vector."""
    key = "image_source"
    with loading(spec, key):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=spec.allow_remote_code)
    processor = load_processor(spec, folder, key)
    is_classifier = architecture(config).endswith("ForImageClassification")
    model = load_model(spec, AutoModelForImageClassification if is_classifier else AutoModel, folder, key)

    def of_images(images: Sequence[Image.Image]) -> Vectors:
        with torch.inference_mode():
            found = model(**processor(list(images), return_tensors="pt"))
        return _unit(found.logits if is_classifier else found.last_hidden_state[:, 0])

    return of_images


def _pooled(features: Model) -> torch.Tensor:
    pooled: torch.Tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
    return pooled


def _unit(vectors: Vectors | torch.Tensor) -> Vectors:
    found = np.asarray(vectors, np.float32)
    unit: Vectors = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


_ASKED: Mapping[Task, Callable[[ModelSpec, Sources, Limits], Iterator[Question]]] = {
    "text-embedding": _text_embedding,
    "sparse": _sparse,
    "cross-encoder": _cross_encoder,
    "classification": _classification,
    "multi-vector": _late_interaction,
    "image-text": _image_text,
}
