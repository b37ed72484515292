import json
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from export.errors import SourceError
from export.manifest import ModelSpec
from export.rows import Rows
from export.tasks import cross_encoder
from export.tower import CROSS_ENCODER, FIRST_LENGTH, TEXT, Tower
from tests.export import tiny

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
        by_head: torch.Tensor = tower.head(given)
        first = given.length if given.first_length is None else given.first_length
        by_reference = [
            tower.reference((ids[:n].numpy(), one.numpy())[: len(tower.fields)])
            for ids, n, one in zip(given.ids, given.length, first, strict=True)
        ]
    torch.testing.assert_close(by_head, torch.stack(by_reference), atol=1e-5, rtol=1e-5)
    return by_head


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


def test_activation_that_is_not_known_is_named(tmp_path: Path) -> None:
    settings = {"activation_fn": "torch.nn.modules.activation.Tanh"}
    source = configured(tiny.write_cross_encoder(tmp_path), sentence_transformers=settings)
    with pytest.raises(SourceError, match="the activation Tanh is not one of Identity, Sigmoid, Softmax"):
        load(spec(source))


LABELS = {0: "contradicts", 1: "entails", 2: "neutral"}


def test_one_of_several_classes_is_the_relevant_one(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, labels=3, id2label=LABELS)
    tower = load(replace(spec(source), positive_class="entails"))
    assert tower.parameters == {"activation": "softmax", "positive_class": "1"}
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
    with pytest.raises(SourceError, match=r"BertModel is no sequence classifier .* use task late-interaction$"):
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


@pytest.mark.parametrize("name", ["Qwen3", "Llama"])
def test_decoder_scores_how_likely_yes_is_against_no(name: str, tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path, name)
    tower = load(replace(spec(source), template=TEMPLATE))
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


def test_template_is_a_parameter_cut_at_the_document(tmp_path: Path) -> None:
    tower = load(replace(spec(tiny.write_decoder_reranker(tmp_path)), template=TEMPLATE))
    found = json.loads(tower.parameters["template"])
    assert f"{found['prefix']}{{document}}{found['suffix']}" == TEMPLATE


def test_template_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    # That of Qwen3-Reranker, which is the default: too long for a model of 100 tokens.
    with pytest.raises(SourceError, match=r"^\[tiny\] template: has \d+ tokens of the 100 that a row may have"):
        load(spec(tiny.write_decoder_reranker(tmp_path)))


def test_decoder_is_compared_on_prompts_that_end_as_the_template_does(tmp_path: Path) -> None:
    tower = load(replace(spec(tiny.write_decoder_reranker(tmp_path)), template=TEMPLATE))
    assert tower.vocabulary is not None
    suffix = tower.vocabulary.tokenizer.encode("\nAnswer:", add_special_tokens=False).ids
    rows = tower.samples()
    assert [len(row[0]) for row in rows][-2:] == [90, 100]
    assert all(row[0][-len(suffix) :].tolist() == suffix for row in rows)


def test_classifier_takes_a_template_too(tmp_path: Path) -> None:
    source = tiny.write_cross_encoder(tmp_path, "Qwen2")
    parameters = load(replace(spec(source), template=TEMPLATE)).parameters
    assert json.loads(parameters["template"])["suffix"] == "\nAnswer:"


def test_decoder_without_the_two_words_is_refused(tmp_path: Path) -> None:
    source = tiny.write_decoder_reranker(tmp_path)
    letters = Tokenizer.from_str(tiny.decoder_pairs().backend_tokenizer.to_str())
    state = json.loads(letters.to_str())
    state["model"]["merges"] = []
    state["model"]["vocab"] = {word: id_ for word, id_ in state["model"]["vocab"].items() if len(word) == 1}
    bare = Tokenizer.from_str(json.dumps(state))
    bare.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    PreTrainedTokenizerFast(tokenizer_object=bare, model_max_length=100).save_pretrained(source)
    with pytest.raises(SourceError, match='its vocabulary has no tokens "yes" and "no"'):
        load(spec(source))
