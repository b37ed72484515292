import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.compat.plain import QUERY, TEXTS, Plain, assert_ranked

pytestmark = pytest.mark.client("llama-index-postprocessor-tei-rerank", '`base_url="URL"`')


@pytest.mark.call("`TextEmbeddingInference.postprocess_nodes`")
def test_ranking(url: str, plain: Plain) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(TEXTS)]
    best = TextEmbeddingInference(base_url=url, top_n=2).postprocess_nodes(nodes, query_str=QUERY)
    assert_ranked([(int(node.node_id), node.score) for node in best], plain.rank()[:2])
