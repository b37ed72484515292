import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec.structs import replace
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from export.errors import SourceError
from export.manifest import ModelSpec
from export.packing.rows import Rows
from export.runtime.contract import CROSS_ENCODER, FIRST_LENGTH, TEXT
from export.tasks import cross_encoder
from export.tower import Tower
from gateway.scores import ACTIVATIONS
from gateway.text.tokenizer import Template, TemplateTokenizer, TextTokenizer
from loadtest.tools import tiny
from tests.export.outputs import main

PAIRS = [
    ("sea shells", "A conch is a sea snail."),
    ("a trumpet of brass", "Brass is an alloy of copper and zinc, and bronze one of copper and tin."),
    ("x", "y"),
]


def spec(source: Path) -> ModelSpec:
    return ModelSpec(name="tiny", task="cross-encoder", source=str(source))


def load(given: ModelSpec) -> Tower:
    (tower,) = cross_encoder.load(given, Path(given.source))
    return tower


def logits(tower: Tower, given: Rows) -> torch.Tensor:
    """By the head, of rows together; the tower's own reference must agree."""
    with torch.inference_mode():
        by_head = main(tower, tower.head(given))
        first = given.length if given.first_length is None else given.first_length
        by_reference = [
            main(tower, tower.reference((ids[:n].numpy(), one.numpy())[: len(tower.fields)]))
            for ids, n, one in zip(given.ids, given.length, first, strict=True)
        ]
    torch.testing.assert_close(by_head, torch.stack(by_reference), atol=1e-5, rtol=1e-5)
    return by_head


LONG = ("sea shells", "A conch is a sea snail. " * 60)


def served(tower: Tower, pairs: list[tuple[str, str]], instruction: str | None = None) -> torch.Tensor:
    """Scores of texts by the tower's head, with the gateway's own code for all around it."""
    assert tower.vocabulary is not None
    copied = Tokenizer.from_str(tower.vocabulary.tokenizer.to_str())
    told = tower.parameters
    template = msgspec.convert(told["template"], Template) if "template" in told else None
    tokenizer = TextTokenizer(copied) if template is None else TemplateTokenizer(copied, template)
    prompt = told.get("prompts", {}).get(told.get("default_prompt", ""), "")

    def row(query: str, document: str) -> tuple[list[int], int]:
        frame = tokenizer.frame(prompt + query, instruction)
        (ids,) = tokenizer.encode([document], frame)
        assert tower.vocabulary is not None
        return tokenizer.truncate(ids, tower.vocabulary.max_tokens, frame), frame.first_length

    made = [row(*pair) for pair in pairs]
    length = torch.tensor([len(ids) for ids, _ in made])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in made], batch_first=True)
    first = torch.tensor([first for _, first in made]) if FIRST_LENGTH in tower.fields else None
    found = logits(tower, Rows(padded, length, length, first)).numpy()
    return torch.from_numpy(ACTIVATIONS[told["activation"]](found)[:, int(told.get("positive_class", 0))]).float()


def predicted(reference: CrossEncoder, pairs: list[tuple[str, str]], **more: Any) -> torch.Tensor:
    """What sentence-transformers gives for the same texts."""
    return torch.stack([reference.predict([pair], convert_to_tensor=True, **more)[0] for pair in pairs])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def configured(source: Path, **settings: object) -> Path:
    file = source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return source


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "ModernBERT", "DeBERTa-v2"])
def test_scores_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, name)
    tower = load(spec(source))
    expected = CrossEncoder(str(source), device="cpu").predict(PAIRS, convert_to_tensor=True)
    assert (tower.role, tower.width, tower.parameters["activation"]) == (CROSS_ENCODER, 1, "sigmoid")
    actual = logits(tower, tiny.rows(tower, *PAIRS)).sigmoid()[:, 0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields"), [("BERT", (TEXT, FIRST_LENGTH)), ("RoBERTa", (TEXT,)), ("DistilBERT", (TEXT,))]
)
def test_length_of_the_query_is_asked_for_by_models_with_segments_only(
    name: str, fields: tuple[object, ...], tmp_path: Path
) -> None:
    tower = load(spec(tiny.write_cross_encoder(tmp_path, name)))
    assert tower.fields == fields
    assert {len(row) for row in tower.samples()} == {len(fields)}


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "none"),
        # Where older versions of sentence-transformers wrote it.
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "none"),
    ],
)
def test_activation_is_the_configs_and_sentence_transformers_applies_the_same(
    settings: dict[str, object], activation: str, tmp_path: Path
) -> None:
    source = configured(tiny.write_cross_encoder(tmp_path), **settings)
    tower = load(spec(source))
    assert tower.parameters["activation"] == activation
    found = logits(tower, tiny.rows(tower, *PAIRS))[:, 0]
    expected = CrossEncoder(str(source), device="cpu").predict(PAIRS, convert_to_tensor=True)
    torch.testing.assert_close(found.sigmoid() if activation == "sigmoid" else found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("path", ["torch.nn.modules.activation.Tanh", "evil.Identity", "torch.hub.Sigmoid"])
@pytest.mark.parametrize("saved", [False, True])
def test_activation_that_is_not_known_is_named(path: str, saved: bool, tmp_path: Path) -> None:
    if saved:
        source = tiny.write_saved_cross_encoder(tmp_path)
        file = source / "config_sentence_transformers.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"activation_fn": path}))
    else:
        source = configured(tiny.write_cross_encoder(tmp_path), sentence_transformers={"activation_fn": path})
    with pytest.raises(SourceError, match=f"the activation {path} is not one of Identity, Sigmoid, Softmax of torch"):
        load(spec(source))


@pytest.mark.parametrize(
    ("settings", "activation"),
    [
        ({}, "sigmoid"),
        ({"activation_fn": torch.nn.Identity()}, "none"),
        ({"activation_fn": torch.nn.Sigmoid()}, "sigmoid"),
        ({"prompts": {"ask": "question: ", "say": "answer: "}, "default_prompt_name": "ask"}, "sigmoid"),
        ({"prompts": {"ask": "question: "}}, "sigmoid"),
    ],
)
@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "ModernBERT"])
def test_saved_cross_encoder_scores_texts_as_it_does(
    name: str, settings: dict[str, Any], activation: str, tmp_path: Path
) -> None:
    source = tiny.write_saved_cross_encoder(tmp_path, name, **settings)
    tower = load(spec(source))
    assert tower.parameters["activation"] == activation
    pairs = [*PAIRS, LONG]
    close(served(tower, pairs), predicted(CrossEncoder(str(source), device="cpu"), pairs))


def test_default_prompt_with_an_instruction_has_a_place_for_another(tmp_path: Path) -> None:
    prompts = {"query": "Instruct: find shells\nQuery: "}
    source = tiny.write_saved_cross_encoder(tmp_path, "RoBERTa", prompts=prompts, default_prompt_name="query")
    assert load(spec(source)).parameters["instructed_prompts"] == {"query": "Instruct: {instruction}\nQuery: "}


@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "TokenizersBackend"])
def test_segments_are_told_where_the_tokenizers_class_tells_them(tokenizer_class: str, tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, tokenizer_class=tokenizer_class)
    tower = load(spec(source))
    assert (FIRST_LENGTH in tower.fields) == (tokenizer_class == "BertTokenizer")
    close(served(tower, PAIRS), predicted(CrossEncoder(str(source), device="cpu"), PAIRS))


def test_cross_encoder_of_other_modules_is_refused(tmp_path: Path) -> None:
    source = tiny.write_saved_cross_encoder(tmp_path)
    listed = json.loads((source / "modules.json").read_text())
    listed += [{"idx": 1, "name": "1", "path": "1", "type": "evil.Evil"}]
    (source / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(SourceError, match=r"a cross-encoder of .*\.Transformer, evil\.Evil is not supported$"):
        load(spec(source))


def test_settings_that_change_tokens_unseen_are_refused(tmp_path: Path) -> None:
    source = tiny.write_saved_cross_encoder(tmp_path, "RoBERTa")
    file = source / "sentence_bert_config.json"
    more = {"processing_kwargs": {"text": {"add_special_tokens": False}}}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    with pytest.raises(SourceError, match="sentence-transformers tokenizes texts differently"):
        load(spec(source))


LABELS = {0: "contradicts", 1: "entails", 2: "neutral"}


def test_one_of_several_classes_is_the_relevant_one(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, labels=3, id2label=LABELS)
    tower = load(replace(spec(source), positive_class="entails"))
    assert tower.parameters == {"activation": "softmax", "positive_class": 1}
    expected = CrossEncoder(str(source), device="cpu").predict(PAIRS, apply_softmax=True, convert_to_tensor=True)
    found = logits(tower, tiny.rows(tower, *PAIRS)).softmax(1)
    assert found.shape == (3, 3)
    torch.testing.assert_close(found[:, 1], expected[:, 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positive_class", [None, "implies"])
def test_which_class_is_relevant_must_be_said(positive_class: str | None, tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, labels=3, id2label=LABELS)
    with pytest.raises(
        SourceError, match=r"^\[tiny\] positive_class: must name the label .* one of contradicts, entails, neutral$"
    ):
        load(replace(spec(source), positive_class=positive_class))


def test_pairs_are_compared_at_every_length_with_both_segments(tmp_path: Path) -> None:
    rows = load(spec(tiny.write_cross_encoder(tmp_path))).samples()
    assert [len(row[0]) for row in rows] == [9, 14, 22, 35, 56, 90, 100]
    assert all(1 < int(row[1]) < len(row[0]) for row in rows)
    assert {int(row[0][-1]) for row in rows} == {3}  # [SEP], also of those that are cut


def test_model_that_is_neither_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"BertModel is neither a sequence classifier nor .* use task multi-vector$"):
        load(spec(tiny.write_plain(tmp_path)))


TEMPLATE = "Is it about {query}?\n{document}\nAnswer:"


def prompts(tower: Tower, template: str) -> Rows:
    """Prompts as the gateway makes them: of text alone, without the special tokens of a text."""
    assert tower.vocabulary is not None
    before, after = template.split("{document}")
    ids = [
        [
            id_
            for part in (before.replace("{query}", query) + document, after)
            for id_ in tower.vocabulary.tokenizer.encode(part, add_special_tokens=False).ids
        ]
        for query, document in PAIRS
    ]
    length = torch.tensor([len(row) for row in ids])
    padded = [row + [tower.vocabulary.padding] * (int(length.max()) - len(row)) for row in ids]
    return Rows(torch.tensor(padded), length, length)


def decoder(source: Path, **keys: Any) -> ModelSpec:
    return replace(spec(source), **({"template": TEMPLATE, "true_token": "yes", "false_token": "no"} | keys))


@pytest.mark.parametrize("name", ["Qwen3", "Llama"])
def test_decoder_scores_how_likely_yes_is_against_no(name: str, tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path, name)
    tower = load(decoder(source))
    given = prompts(tower, TEMPLATE)
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    yes, no = (tiny.decoder_pairs().convert_tokens_to_ids(word) for word in ("yes", "no"))
    with torch.inference_mode():
        answers = [
            model(ids[None, :n]).logits[0, -1, [yes, no]] for ids, n in zip(given.ids, given.length, strict=True)
        ]
    assert (tower.width, tower.fields, tower.parameters["activation"]) == (1, (TEXT,), "sigmoid")
    actual = logits(tower, given).sigmoid()[:, 0]
    torch.testing.assert_close(actual, torch.stack(answers).softmax(1)[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("answers", [(20, 30), (20, None)])
def test_logits_of_a_decoder_are_its_own_soft_capped_ones(answers: tuple[int, int | None], tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path, "Gemma 3", final_logit_softcapping=2.0)
    true, false = (tiny.decoder_pairs().convert_ids_to_tokens(id_) if id_ else None for id_ in answers)
    tower = load(decoder(source, true_token=true, false_token=false))
    chat = TEMPLATE.replace("{query}", "{{ messages[0].content }}").replace("{document}", "{{ messages[1].content }}")
    transformer = Transformer(str(source), transformer_task="text-generation", processor_kwargs={"chat_template": chat})
    close(served(tower, PAIRS), predicted(CrossEncoder(modules=[transformer, LogitScore(*answers)]), PAIRS))


@pytest.mark.parametrize("prompt", [None, "Is it about shells?"])
@pytest.mark.parametrize("answers", [(5, 6), (7, None)])
def test_folder_with_logit_score_and_chat_template_says_all(
    answers: tuple[int, int | None], prompt: str | None, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"prompts": {"a": prompt}, "default_prompt_name": "a"} if prompt else {}
    source = tiny.write_logit_score(tmp_path, chat_template=tiny.PAIRS_TEMPLATE, answers=answers, **settings)
    tower = load(spec(source))
    reference = CrossEncoder(str(source), device="cpu")
    pairs = [*PAIRS, LONG, ("Why?", "Because.")]
    close(served(tower, pairs), predicted(reference, pairs))
    other = "Judge.\n{query} {document}"
    close(served(tower, pairs, other), predicted(reference, pairs, prompt=other))


def test_folder_with_logit_score_and_no_chat_template_reads_pairs(tmp_path: Path) -> None:
    source = tiny.write_logit_score(tmp_path, "Llama")
    pairs = [*PAIRS, LONG]
    close(served(load(spec(source)), pairs), predicted(CrossEncoder(str(source), device="cpu"), pairs))


@pytest.mark.parametrize(
    ("chat_template", "reason"),
    [
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "has no place for a query"),
        ("{{ messages[0].content | trim }} {{ messages[1].content }}", "changes the texts that it is given"),
        ("{{ messages[1].content }} {{ messages[0].content }}", "the document after the query"),
        ("{{ messages[0].content }} {{ messages[0].content }} {{ messages[1].content }}", "once each"),
    ],
)
def test_chat_template_that_is_not_understood_is_refused(chat_template: str, reason: str, tmp_path: Path) -> None:
    source = tiny.write_logit_score(tmp_path, chat_template=chat_template)
    with pytest.raises(SourceError, match=rf"^\[tiny\] template: .*{reason}"):
        load(spec(source))
    assert load(replace(spec(source), template=TEMPLATE)).parameters["template"]


def parts_of(tokens: Any, *parts: str) -> list[int]:
    return [id_ for part in parts for id_ in tokens(part, add_special_tokens=False)["input_ids"]]


def mxbai(tokens: Any, query: str, document: str, instruction: str | None) -> list[int]:
    """As MxbaiRerankV2.prepare_inputs of mxbai-rerank does."""
    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. For each"
        " query-document pair, carefully analyze the semantic relationship between them, then provide your binary"
        " relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
    )
    asked = f"instruction: {instruction}\nquery: {query}" if instruction else f"query: {query}"
    system = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    prefix, suffix = system + "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    return parts_of(tokens, prefix, asked, "\n", f"document: {document}", "\n", task, suffix)


def gemma(tokens: Any, query: str, document: str, instruction: str | None) -> list[int]:
    """As DatasetForReranker of FlagEmbedding does."""
    usual = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a"
        " prediction of either 'Yes' or 'No'."
    )
    parts = (f"A: {query}", "\n", f"B: {document}", "\n", instruction or usual)
    return [tokens.bos_token_id, *parts_of(tokens, *parts)]


def qwen3(tokens: Any, query: str, document: str, instruction: str | None) -> list[int]:
    """As the model card of Qwen3-Reranker does: `format_instruction` between a prefix and a suffix."""
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
        ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    told = instruction or "Given a web search query, retrieve relevant passages that answer the query"
    middle = f"<Instruct>: {told}\n<Query>: {query}\n<Document>: {document}"
    return parts_of(tokens, prefix, middle, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("instruction", [None, "Find the sea."])
@pytest.mark.parametrize(
    ("template", "name", "tokens", "make", "answers"),
    [
        ("qwen3-reranker", "Qwen3", tiny.decoder_pairs, qwen3, ("yes", "no")),
        ("mxbai-rerank-v2", "Qwen2", tiny.decoder_pairs, mxbai, ("1", "0")),
        ("bge-reranker-v2-gemma", "Gemma", tiny.gemma_pairs, gemma, ("Yes",)),
    ],
)
def test_known_rerankers_read_and_answer_as_their_own_code_has_them(
    template: str, name: str, tokens: Any, make: Any, answers: tuple[str, ...], instruction: str | None, tmp_path: Path
) -> None:
    source = tiny.write_decoder_reranker(tmp_path, name, tokens, max_position_embeddings=1024)
    tower = load(replace(spec(source), template=template, max_tokens=768))
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    pairs = [*PAIRS, ("Why?", "Because."), ("a ", " b\n")]
    own = AutoTokenizer.from_pretrained(source)
    ids = [own.convert_tokens_to_ids(answer) for answer in answers]
    expected = []
    with torch.inference_mode():
        for query, document in pairs:
            row = torch.tensor([make(own, query, document, instruction)])
            found = model(row).logits[0, -1, ids]
            expected.append(found[0] - found[1] if len(ids) > 1 else found[0])
    close(served(tower, pairs, instruction), torch.stack(expected).sigmoid())


def test_known_reranker_is_told_by_its_name_on_the_hub(tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path, max_position_embeddings=1024)
    named = replace(spec(source), source="Qwen/Qwen3-Reranker-4B", max_tokens=512)
    (tower,) = cross_encoder.load(named, source)
    assert "Judge whether the Document meets" in tower.parameters["template"]["prefix"]


def test_decoder_that_does_not_say_how_it_ranks_is_refused(tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path)
    with pytest.raises(
        SourceError,
        match=r"^\[tiny\] template: .* set template to one of qwen3-reranker, .*, true_token and false_token$",
    ):
        load(spec(source))
    with pytest.raises(SourceError, match=r"^\[tiny\] template: must be set for a decoder"):
        load(replace(spec(source), true_token="yes"))  # noqa: S106 - a token of text


def test_answer_must_be_one_token(tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path)
    with pytest.raises(SourceError, match=r"^\[tiny\] true_token: 'relevant' is not a single token$"):
        load(decoder(source, true_token="relevant"))  # noqa: S106


def test_tokens_are_said_once(tmp_path: Path) -> None:
    source = tiny.write_logit_score(tmp_path, chat_template=tiny.PAIRS_TEMPLATE)
    with pytest.raises(SourceError, match=r"^\[tiny\] true_token: already set by the source \(LogitScore\)$"):
        load(replace(spec(source), true_token="yes"))  # noqa: S106


def test_template_is_a_parameter_cut_at_the_document(tmp_path: Path) -> None:
    tower = load(decoder(tiny.write_decoder_reranker(tmp_path)))
    found = tower.parameters["template"]
    assert f"{found['prefix']}{{document}}{found['suffix']}" == TEMPLATE
    assert "instructed" not in found


def test_instruction_of_a_table_stands_in_its_template(tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path)
    told = load(decoder(source, template="{instruction} " + TEMPLATE, instruction="Judge.")).parameters["template"]
    assert told["prefix"].startswith("Judge. Is it")
    assert told["instructed"]["prefix"].startswith("{instruction} Is it")
    with pytest.raises(SourceError, match=r"^\[tiny\] instruction: the template does not contain {instruction}$"):
        load(decoder(source, instruction="Judge."))
    with pytest.raises(SourceError, match=r"^\[tiny\] template: must contain \{query\} and \{document\} once each"):
        load(decoder(source, template="{instruction} " + TEMPLATE, instruction="{query}"))


def test_template_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path)  # of 100 tokens
    with pytest.raises(SourceError, match=r"^\[tiny\] template: takes \d+ of the 100 tokens of a row, more than half"):
        load(replace(spec(source), template="qwen3-reranker"))


def test_decoder_is_compared_on_prompts_that_end_as_the_template_does(tmp_path: Path) -> None:
    tower = load(decoder(tiny.write_decoder_reranker(tmp_path)))
    assert tower.vocabulary is not None
    suffix = tower.vocabulary.tokenizer.encode("\nAnswer:", add_special_tokens=False).ids
    rows = tower.samples()
    assert [len(row[0]) for row in rows][-2:] == [90, 100]
    assert all(row[0][-len(suffix) :].tolist() == suffix for row in rows)


def test_classifier_takes_a_template_too(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, "Qwen2")
    parameters = load(replace(spec(source), template=TEMPLATE)).parameters
    assert parameters["template"]["suffix"] == "\nAnswer:"
