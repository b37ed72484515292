import json
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from export.errors import SourceError
from export.manifest import ModelSpec
from export.tasks import late_interaction
from export.tasks.late_interaction import PUNCTUATION
from export.tower import DOCUMENT, LATE_INTERACTION, QUERY, Tower
from tests.export import tiny

QUERIES = ["sea shells", "sea shells", "what is brass?"]
DOCUMENTS = ["A conch is a sea snail, or its shell.", "Brass, bronze.", "Brass is an alloy; of copper."]
CLS, SEP, MASK, UNUSED0, UNUSED1 = 2, 3, 4, 5, 6


def spec(source: Path) -> ModelSpec:
    return ModelSpec(name="tiny", task="late-interaction", source=str(source))


def load(given: ModelSpec) -> Tower:
    (tower,) = late_interaction.load(given, Path(given.source))
    return tower


def limit(tower: Tower) -> int:
    assert tower.vocabulary is not None
    return tower.vocabulary.max_tokens


def scores(tower: Tower) -> Tensor:
    """By the head, of texts with their prompts as the gateway puts them; the tower's own reference must agree."""
    prompts = json.loads(tower.parameters["prompts"] or '{"query": "", "document": ""}')
    query = tiny.rows(tower, *(prompts["query"] + text for text in QUERIES))
    document = tiny.rows(tower, *(prompts["document"] + text for text in DOCUMENTS))
    pairs = zip(query.ids, query.length, document.ids, document.length, strict=True)
    with torch.inference_mode():
        by_head: Tensor = tower.head(query, document)
        by_reference = [tower.reference((q[:m].numpy(), d[:n].numpy())) for q, m, d, n in pairs]
    torch.testing.assert_close(by_head, torch.stack(by_reference), atol=1e-5, rtol=1e-5)
    return by_head[:, 0]


def words(text: str) -> list[int]:
    ids: list[int] = tiny.wordpiece()(text, add_special_tokens=False)["input_ids"]
    return ids


def vectors(model: PreTrainedModel, weight: Tensor, ids: list[int], attended: int) -> Tensor:
    mask = (torch.arange(len(ids)) < attended).long()[None]
    hidden = model(torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
    return functional.normalize(hidden @ weight.T, dim=-1)


def colbert(folder: Path, weight: Tensor, skipped: str, *, attended: bool, expansion: int = 32) -> Tensor:
    """Scores as the paper's code computes them, divided by the number of query tokens."""
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    found = []
    for query_text, document_text in zip(QUERIES, DOCUMENTS, strict=True):
        query = [CLS, UNUSED0, *words(query_text), SEP]
        filled = query + [MASK] * (expansion - len(query))
        document = [CLS, UNUSED1, *words(document_text), SEP]
        kept = torch.tensor([id_ not in words(skipped) for id_ in document])
        with torch.inference_mode():
            left = vectors(model, weight, filled, len(filled) if attended else len(query))
            right = vectors(model, weight, document, len(document))[kept]
        found.append((left @ right.T).amax(1).mean())
    return torch.stack(found)


def test_stanfords_colbert_scores_as_its_artifact_says(tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path, pylate=False)
    tower = load(spec(source))
    assert (tower.role, tower.fields, tower.width) == (LATE_INTERACTION, (QUERY, DOCUMENT), 1)
    assert limit(tower) == 90
    weight = load_file(source / "model.safetensors")["linear.weight"]
    expected = colbert(source, weight, " ".join(PUNCTUATION), attended=True)
    torch.testing.assert_close(scores(tower), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "attended", "expansion"),
    [
        ({}, False, 32),
        ({"attend_to_expansion_tokens": True}, True, 32),
        ({"query_length": 12}, False, 12),
        ({"do_query_expansion": False}, False, 0),
    ],
)
def test_pylates_colbert_scores_as_its_config_says(
    settings: dict[str, object], attended: bool, expansion: int, tmp_path: Path
) -> None:
    source = tiny.write_colbert(tmp_path, pylate=True)
    file = source / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    weight = load_file(source / "1_Dense" / "model.safetensors")["linear.weight"]
    expected = colbert(source, weight, ", . ?", attended=attended, expansion=expansion)
    torch.testing.assert_close(scores(load(spec(source))), expected, atol=1e-5, rtol=0)


def test_what_is_skipped_matters(tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path, pylate=False)
    before = scores(load(spec(source)))
    settings = json.loads((source / "artifact.metadata").read_text()) | {"mask_punctuation": False}
    (source / "artifact.metadata").write_text(json.dumps(settings))
    after = scores(load(spec(source)))
    weight = load_file(source / "model.safetensors")["linear.weight"]
    torch.testing.assert_close(after, colbert(source, weight, "", attended=True), atol=1e-5, rtol=0)
    assert not torch.allclose(before, after, atol=1e-5)


def test_words_that_the_vocabulary_does_not_have_are_not_skipped(tmp_path: Path) -> None:
    # They all are the unknown token, and so are words of documents that ought to count.
    source = tiny.write_colbert(tmp_path, pylate=True)
    file = source / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"skiplist_words": ["…", ","]}))
    assert load(spec(source)).head.skipped == tuple(words(","))


@pytest.mark.parametrize("pylate", [True, False])
def test_prefixes_are_prompts_and_one_token_each(pylate: bool, tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path, pylate=pylate)
    # In BERT's own tokenizer they are words like any other, which text is never split into.
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if "unused" not in token["content"]]
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": {}}))
    tower = load(spec(source))
    prompts = json.loads(tower.parameters["prompts"])
    assert prompts == {"query": "[unused0]", "document": "[unused1]"}
    assert tower.vocabulary is not None
    for name, id_ in (("query", UNUSED0), ("document", UNUSED1)):
        assert tower.vocabulary.tokenizer.encode(prompts[name] + "sea").ids[:2] == [CLS, id_]


def test_bias_of_the_projection_is_kept(tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path, pylate=True)
    dense = source / "1_Dense" / "model.safetensors"
    save_file(load_file(dense) | {"linear.bias": torch.arange(8) / 8}, dense)
    projection = load(spec(source)).head.projection
    assert isinstance(projection, torch.nn.Linear)
    assert projection.bias.tolist() == [i / 8 for i in range(8)]


def test_any_encoder_scores_by_its_token_vectors(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path)
    tower = load(spec(source))
    model = AutoModel.from_pretrained(source).eval()
    expected = []
    for query, document in zip(QUERIES, DOCUMENTS, strict=True):
        left, right = (
            model(**tiny.wordpiece()(text, return_tensors="pt")).last_hidden_state for text in (query, document)
        )
        expected.append(functional.cosine_similarity(left[0][:, None], right, dim=-1).amax(1).mean())
    torch.testing.assert_close(scores(tower), torch.stack(expected), atol=1e-5, rtol=0)
    assert tower.parameters == {"prompts": ""}


@pytest.mark.parametrize("document", ["document", "passage"])
def test_prompts_of_an_embedding_model_are_taken_over(document: str, tmp_path: Path) -> None:
    source = tiny.write_embedding(tmp_path)
    file = source / "config_sentence_transformers.json"
    prompts = {"query": "query: ", document: "passage: ", "clustering": "cluster: "}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prompts": prompts}))
    tower = load(spec(source))
    assert json.loads(tower.parameters["prompts"]) == {"query": "query: ", "document": "passage: "}
    assert limit(tower) == 100  # of sentence_bert_config.json


def test_limit_of_the_table_goes_before_the_folders(tmp_path: Path) -> None:
    source = tiny.write_colbert(tmp_path, pylate=True)
    assert limit(load(replace(spec(source), max_tokens=40))) == 40


def test_dense_layers_of_an_embedding_model_are_not_for_its_tokens(tmp_path: Path) -> None:
    tower = load(spec(tiny.write_embedding(tmp_path, dense=True)))
    assert isinstance(tower.head.projection, torch.nn.Identity)


def test_expansion_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    source = tiny.write_plain(tmp_path, "Qwen3")
    (source / "artifact.metadata").write_text(json.dumps({"query_maxlen": 32, "doc_maxlen": 90}))
    with pytest.raises(
        SourceError, match=r"^\[tiny\] source: queries are expanded, but the tokenizer has no mask token$"
    ):
        load(spec(source))
