import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from export.plans.measures import cosine_errors
from export.runtime.contract import IMAGE_TOKENS, OUTPUTS, Row, Values
from export.runtime.execution import Execution
from export.runtime.inputs import Sizes
from export.runtime.torch_engine import Engine, buckets, close_up
from tests.export.outputs import assert_close, computed
from tests.export.runtime.programs import KINDS, Mean, write

LENGTHS = (1, 5, 40, 17, 2, 8, 8, 90)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(write(KINDS[kind], tmp_path_factory.mktemp(kind)))


def assert_alone(engine: Engine, rows: Sequence[Row], alone: Sequence[Mapping[str, Values]]) -> None:
    """All outputs of rows together are those of each alone."""
    together = engine.run(rows, OUTPUTS)
    for output in engine.outputs:
        for found, one in zip(together[output.name], alone, strict=True):
            assert_close(found, one[output.name][0], atol=1e-6)
            assert found.shape[1 if output.per != "row" else 0 :] == output.shape


def test_rows_together_equal_rows_alone(kind: str, engine: Engine) -> None:
    rows = KINDS[kind].rows(LENGTHS)
    assert_alone(engine, rows, [engine.run([row], OUTPUTS) for row in rows])
    assert len(np.unique(computed(engine, rows).round(5), axis=0)) > 1


def test_tokens_are_those_of_the_text_and_of_the_query(kind: str, engine: Engine) -> None:
    """Each row has as many as it has tokens, a query with its expansion."""
    rows, expansion = KINDS[kind].rows(LENGTHS), KINDS[kind].expansion
    found = engine.run(rows, ["tokens", "query_tokens"])
    fields = KINDS[kind].fields
    for name, field in (("tokens", fields[1 if "query_ids" in fields else 0]), ("query_tokens", "query_ids")):
        least = expansion.length if expansion is not None and expansion.field == field else 0
        if name in found:
            lengths = [len(row[fields.index(field)]) for row in rows]
            assert [len(values) for values in found[name]] == [max(length, least) for length in lengths]


@pytest.mark.parametrize("kind", ["pair", "expanded", "unseen"], indirect=True)
def test_vectors_of_a_document_need_no_query(kind: str, engine: Engine) -> None:
    rows = KINDS[kind].rows(LENGTHS)
    without = [(query[:0] if place % 2 else query, document) for place, (query, document) in enumerate(rows)]
    expected, found = engine.run(rows, OUTPUTS), engine.run(without, OUTPUTS)
    for place in range(len(rows)):
        assert_close(found["tokens"][place], expected["tokens"][place])
        assert (len(found["query_tokens"][place]) == 0) == (place % 2 == 1)
    alone = engine.run([(query[:0], document) for query, document in rows], OUTPUTS)
    assert not np.asarray(alone["score"]).any()


def test_outputs_that_nobody_wants_are_left_out(kind: str, engine: Engine) -> None:
    rows = KINDS[kind].rows(LENGTHS)
    main = engine.outputs[0].name
    assert list(engine.run(rows, [main, "labels"])) == [main]
    assert engine.run(rows, []) == {}


def test_each_row_has_the_outputs_that_it_wants_and_no_others(kind: str, engine: Engine) -> None:
    rows, names = KINDS[kind].rows(LENGTHS), [output.name for output in engine.outputs]
    each = [names[place % 2 :][:2] for place in range(len(rows))]
    expected, found = engine.run(rows, OUTPUTS), engine.run(rows, OUTPUTS, each)
    for output in engine.outputs:
        for place in range(len(rows)):
            own, one = expected[output.name][place], found[output.name][place]
            nothing = np.zeros_like(own) if output.per == "row" else own[:0]
            assert_close(one, own if output.name in each[place] else nothing)


def test_copied_stretches_hold_what_is_wanted_once() -> None:
    assert close_up([(4, 6), (0, 2), (2, 3), (0, 2), (9, 9)]) == (
        [(0, 3), (4, 6), (9, 9)],
        [(3, 5), (0, 2), (2, 3), (0, 2), (5, 5)],
    )


def test_rows_in_a_bucket_equal_rows_alone(kind: str, engine: Engine) -> None:
    rows = KINDS[kind].rows(LENGTHS)
    alone = [engine.run([row], OUTPUTS) for row in rows]
    engine.prepare(buckets(engine.spec, padded=False))
    padding = engine.counts.padding
    for number in (1, 3, len(rows)):
        assert_alone(engine, rows[:number], alone[:number])
    assert engine.counts.padding - padding >= (IMAGE_TOKENS if kind == "image" else 32 - LENGTHS[0])
    engine.prepare([])


@pytest.mark.parametrize("kind", ["pair"], indirect=True)
def test_recorded_executions_hold_as_many_tokens_as_the_documentation_says(engine: Engine) -> None:
    tokens = sum(one.tokens for one in buckets(engine.spec, padded=False))
    assert f"at most {tokens:,} vectors: {tokens * 1024 * 4 / 2**20:.0f} MiB" in Path("docs/models.md").read_text()


ROOM = 64


@torch.library.custom_op("conch_tests::scarce", mutates_args=())
def scarce(hidden: Tensor) -> Tensor:
    """An operation for which there is memory up to some tokens."""
    if len(hidden) > ROOM:
        raise torch.OutOfMemoryError("there is no memory")
    return hidden.clone()


@scarce.register_fake
def _(hidden: Tensor) -> Tensor:
    return torch.empty_like(hidden)


class Scarce(Mean):
    def compute(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        position: Tensor = scarce(given["position"])
        return super().compute({**given, "position": position})


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(write(replace(KINDS["text"], model=Scarce), tmp_path_factory.mktemp("scarce")))


def test_pack_without_memory_is_split(poor: Engine) -> None:
    rows = KINDS["text"].rows([20, 30, 40, 5, 64])
    alone = np.concatenate([computed(poor, [row]) for row in rows])
    np.testing.assert_allclose(computed(poor, rows), alone, atol=1e-6)


def test_row_without_memory_fails_and_the_next_do_not(poor: Engine) -> None:
    short, long = KINDS["text"].rows([20, 80])
    with pytest.raises(torch.OutOfMemoryError, match="there is no memory"):
        computed(poor, [long, short])
    assert np.isfinite(computed(poor, [short])).all()


def test_engine_says_how_it_computes(poor: Engine) -> None:
    assert poor.description == (
        "fp32 on a CPU, not compiled, because there is no compiled.pt2 yet; up to 16384 tokens and 1024 rows at once"
    )
    assert [field.name for field in poor.fields] == ["input_ids"]


def test_program_counts_what_it_computes(poor: Engine) -> None:
    before = copy.deepcopy(poor.counts)
    computed(poor, KINDS["text"].rows([5, 6]))
    assert (poor.counts.tokens - before.tokens, poor.counts.padding - before.padding) == (11, 5)
    assert poor.counts.executions - before.executions == {"eager": 1}
    poor.prepare([Sizes(32, 3, 32)])
    computed(poor, KINDS["text"].rows([5, 6]))
    poor.prepare([])
    assert poor.counts.executions - before.executions == {"eager": 1, "graph": 1}
    computed(poor, KINDS["text"].rows([40, 40]))
    assert poor.counts.halved - before.halved == 1
    assert poor.counts.executions - before.executions == {"eager": 3, "graph": 1}
    assert poor.counts.busy > before.busy


def test_nothing_is_in_flight_after_a_failure(poor: Engine) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        computed(poor, KINDS["text"].rows([80]))
    assert poor.counts.in_flight == 0


def test_memory_on_a_cpu_is_that_of_the_process(poor: Engine) -> None:
    before = poor.memory()["resident"]
    held = np.ones(1 << 25, np.uint8)
    assert poor.memory()["resident"] - before > held.nbytes // 2


def test_limits_cut_packs(tmp_path: Path) -> None:
    kind = KINDS["text"]
    graph = write(kind, tmp_path)
    engine, rows = Engine(graph), kind.rows([3, 4, 20, 4])
    engine.execution = Execution(tokens=8, rows=2)
    expected = np.concatenate([computed(engine, [row]) for row in rows])
    padding = engine.counts.padding
    np.testing.assert_allclose(computed(engine, rows), expected, atol=1e-6)
    assert engine.counts.padding - padding == 1 + 4 + 4  # (3, 4), (4,) and (20,)


def test_half_precision_is_near_the_full(tmp_path: Path) -> None:
    kind = KINDS["text"]
    full, half = (Engine(write(kind, tmp_path / name, name), name) for name in ("fp32", "bf16"))
    rows = kind.rows(LENGTHS)
    assert half.precision == "bf16"
    assert cosine_errors(computed(full, rows), computed(half, rows)).max() < 1e-3
    with pytest.raises(ValueError, match="the program computes in bf16, not in fp16"):
        Engine(tmp_path / "bf16" / "program.pt2", "fp16")


@pytest.mark.parametrize("kind", [pytest.param(name, id=name) for name in KINDS], indirect=True)
@pytest.mark.parametrize("padded", [True, False])
def test_buckets_ascend_and_have_rows_for_the_dummy(kind: str, engine: Engine, *, padded: bool) -> None:
    found = buckets(engine.spec, padded=padded)
    assert found == sorted(found, key=lambda sizes: (sizes.tokens, sizes.rows))
    assert all(sizes.rows >= 2 for sizes in found)
    assert kind == "image" or not padded or max(sizes.longest * sizes.rows for sizes in found) <= 4 * 512
    assert all(sizes.queries == 1 for sizes in found if sizes.pairs)
    assert kind == "image" or {sizes.longest for sizes in found} == {sizes.tokens for sizes in found}
