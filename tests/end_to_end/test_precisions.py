"""What bf16 and int8 may cost in quality."""

from pathlib import Path

import pytest

from loadtest.experiments.precisions import measure

STSB = Path("../shared/data/stsb-en-dev.csv")


@pytest.mark.skipif(not STSB.exists(), reason=f"{STSB} is not there; get stsb-multi-mt's English dev split to run this")
@pytest.mark.timeout(400)  # three exports, and the sentences in each
def test_lower_precision_keeps_the_ranking_of_stsb(tmp_path: Path) -> None:
    """Of every third pair: all of them, in minutes, are `make precisions`."""
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("".join(STSB.read_text(encoding="utf8").splitlines(keepends=True)[::3]), encoding="utf8")
    figures = measure(pairs, rounds=1)
    spearman = {precision: found["stsb_spearman"] for precision, found in figures.items()}
    assert spearman["bf16"] == pytest.approx(spearman["fp32"], abs=0.001)
    assert spearman["int8"] == pytest.approx(spearman["fp32"], abs=0.005)
