"""The playground with models that read texts and images together, in a browser, against a real server."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

from loadtest.tools.pictures import file, scene
from tests.browser.conftest import Visits
from tests.browser.test_playground import CONTRASTS, TIMES, compare, copied, cosines, drop, run_shell, tab_to
from tests.seeing_models import write_seeing_repository
from tests.serving import Server, serve

TEXT = "the sea snail"
PICTURE = file(scene(40, 24, 1), "PNG")
"""Of 3 x 5 merged patches for the models here."""
URI = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(write_seeing_repository(tmp_path_factory.mktemp("seeing"))) as running:
        yield running


@pytest.fixture
def api(seeing: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=seeing.url, timeout=60) as client:
        yield client


def post(api: httpx2.Client, path: str, **body: Any) -> Any:
    response = api.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def open_page(visit: Visits, server: Server, **options: Any) -> Page:
    """The playground with its example page."""
    page = visit(server.url, permissions=["clipboard-read", "clipboard-write"], **options)
    page.wait_for_selector("#page-picture-list li")
    page.wait_for_selector("#document-pictures-list li:nth-child(3)")
    return page


def rerank(page: Page, model: str, count: int) -> list[str]:
    """Press the button, and read the names of the documents."""
    page.select_option("#rerank-model", model)
    page.click("#rerank .primary")
    expect(page.locator(".ranking li")).to_have_count(count)
    return page.locator(".ranking .words").all_inner_texts()


def match(page: Page) -> None:
    """Show how the text matches the page."""
    page.click("#inspect .primary")
    expect(page.locator("#inspect .summary")).to_contain_text(" ms")


def similarities(api: httpx2.Client, text: str) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    """The ids of a query's vectors, and the similarity of each with each patch of PICTURE and each of its vectors."""
    body = {"model": "pages", "embedding_type": "multi_vector", "return_tokens": True}
    query, page = (
        post(api, "/v1/embeddings", input=given, task=task, **body)["data"][0]
        for given, task in ((text, "query"), ({"image": URI}, "document"))
    )
    every = np.array(query["embedding"]) @ np.array(page["embedding"]).T
    ((grid,),) = page["tokens"]["images"]
    assert (grid["rows"], grid["columns"], grid["box"]) == (3, 5, [0, 0, 1, 1])
    return query["tokens"]["ids"], every[:, grid["start"] : grid["start"] + 15], every


def shown(page: Page) -> NDArray[np.float64]:
    """The values of the patches on the page."""
    titles = [patch.get_attribute("title") or "" for patch in page.locator(".patches i").all()]
    assert [title.partition(":")[0] for title in titles] == [
        f"row {1 + i // 5}, column {1 + i % 5} of 3 {TIMES} 5 patches" for i in range(len(titles))
    ]
    return np.array([float(title.rpartition(" ")[2]) for title in titles])


def test_text_and_image_are_compared_as_one_input(visit: Visits, seeing: Server, api: httpx2.Client) -> None:
    page = open_page(visit, seeing)
    page.click("#compare [data-do=clear]")
    page.fill("#texts", TEXT)
    drop(page, PICTURE, "one.png")
    drop(page, PICTURE, "two.png")
    page.get_by_label("Text to read together with two.png").fill("a conch")
    cells = compare(page)
    inputs = [TEXT, {"image": URI}, {"text": "a conch", "image": URI}]
    expected = cosines(post(api, "/v1/embeddings", model="seeing", input=inputs))
    assert np.array(cells, np.float64) == pytest.approx(expected, abs=0.0051)
    assert page.locator("#compare tbody th").all_inner_texts()[1:] == ["one.png", "a conch + two.png"]
    assert cosines(run_shell(copied(page, "#compare"))) == pytest.approx(expected)


@pytest.mark.parametrize("model", ["judging", "pages"])
def test_texts_and_images_are_ranked_together(visit: Visits, seeing: Server, api: httpx2.Client, model: str) -> None:
    page = open_page(visit, seeing)
    page.click("#rerank [data-do=clear]")
    page.fill("#query", TEXT)
    page.fill("#documents", "a conch\nbrass")
    drop(page, PICTURE, "scene.png", on="#documents")
    found = rerank(page, model, 3)
    documents = ["a conch", "brass", {"image": URI}]
    results = post(api, "/v1/rerank", model=model, query=TEXT, documents=documents)["results"]
    names = ["a conch", "brass", "scene.png"]
    assert found == [names[result["index"]] for result in results]
    place = found.index("scene.png")
    assert page.locator(".ranking li").nth(place).locator("img").get_attribute("src") == URI
    scores = [float(text.removeprefix("score ")) for text in page.locator(".ranking .score").all_text_contents()]
    assert scores == pytest.approx([result["relevance_score"] for result in results], abs=0.0006)
    repeated = run_shell(copied(page, "#rerank"))["results"]
    assert [names[result["index"]] for result in repeated] == found


def test_query_may_be_an_image_where_a_model_takes_one(visit: Visits, seeing: Server, api: httpx2.Client) -> None:
    page = open_page(visit, seeing)
    page.fill("#query", "")
    drop(page, file(scene(30, 30, 2), "PNG"), "replaced.png", on="#query")
    drop(page, PICTURE, "asked.png", on="#query")
    expect(page.locator("#query-picture-list img")).to_have_attribute("title", "asked.png")
    expect(page.locator("#document-pictures-list li")).to_have_count(3)
    rerank(page, "judging", 9)
    sent = page.locator("#rerank pre").text_content() or ""
    assert '"query": {' in sent
    command = copied(page, "#rerank")
    ranked = run_shell(command)["results"]
    documents = page.input_value("#documents").splitlines()
    alone = post(api, "/v1/rerank", model="judging", query={"image": URI}, documents=documents)["results"]
    assert [one["index"] for one in ranked if one["index"] < 6] == [one["index"] for one in alone]
    page.select_option("#rerank-model", "pages")
    expect(page.locator("#query-picture-left-out")).to_have_text("Queries of pages are texts. The image is ignored.")
    page.click("#rerank .primary")
    expect(page.locator("#rerank .error")).to_have_text("Enter a query.")


def test_pasted_image_goes_where_the_cursor_is(visit: Visits, seeing: Server) -> None:
    page = open_page(visit, seeing)
    paste = """([selector, base64]) => {
      const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
      const event = new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true});
      document.querySelector(selector).dispatchEvent(event);
    }"""
    for selector, field in (
        ("#query", "#query-picture"),
        ("#documents", "#document-pictures"),
        ("#inspected", "#page-picture"),
        ("body", "#pictures"),
    ):
        page.evaluate(paste, [selector, URI.partition(",")[2]])
        expect(page.locator(f"{field}-list img[title='pasted.png']")).to_have_count(1)
    assert page.locator("img[title='pasted.png']").count() == 4


def test_heat_map_of_a_page_has_the_similarities_of_words_and_patches(
    visit: Visits, seeing: Server, api: httpx2.Client
) -> None:
    page = open_page(visit, seeing)
    page.fill("#inspected", TEXT)
    drop(page, PICTURE, "scene.png", on="#inspect")
    match(page)
    ids, patches, every = similarities(api, TEXT)
    expect(page.locator("#inspect .summary")).to_contain_text(
        f"{len(ids)} token vectors of the text and {every.shape[1]} of the image, 15 of them of patches"
    )
    expect(page.locator("#inspect .summary")).to_contain_text(f"best matches: {every.max(1).mean():.3f}")
    assert shown(page) == pytest.approx(patches.mean(0), abs=6e-5)

    pieces = post(api, "/decode", model="pages", ids=[[i] for i in ids], skip_special_tokens=False)
    labels = page.locator(".words-choice label")
    words = [text.partition(", score ") for text in labels.all_text_contents()]
    assert [word for word, _, _ in words] == [
        "All words",
        "<|im_start|>",
        "Query:",
        "the",
        "sea",
        "snail",
        "<|im_end|>",
    ]
    place = 0
    for number, (word, _, score) in enumerate(words[1:], 1):
        end = place + 1
        while "".join(pieces[place:end]).strip() != word:
            end += 1
        labels.nth(number).click()
        own = patches[place:end]
        assert shown(page) == pytest.approx(own.mean(0), abs=6e-5)
        assert float(score) == pytest.approx(own.max(1).mean(), abs=0.0051)
        best = int(own.mean(0).argmax())
        said = f"“{word}”: most similar is row {1 + best // 5}, column {1 + best % 5} of 3 {TIMES} 5 patches"
        expect(page.locator(".matches [role=status]")).to_contain_text(said)
        expect(page.get_by_role("img", name=f"scene.png. {said}")).to_have_count(1)
        assert "best" in (page.locator(".patches i").nth(best).get_attribute("class") or "")
        place = end
    assert place == len(ids)
    assert float(words[0][2]) == pytest.approx(patches.max(1).mean(), abs=0.0051)


def test_word_under_the_pointer_is_shown_while_it_is_there(visit: Visits, seeing: Server, api: httpx2.Client) -> None:
    page = open_page(visit, seeing)
    page.fill("#inspected", TEXT)
    drop(page, PICTURE, "scene.png", on="#inspect")
    match(page)
    _, patches, _ = similarities(api, TEXT)
    page.locator(".words-choice label").nth(1).hover()
    assert shown(page) == pytest.approx(patches[0], abs=6e-5)
    page.locator("#inspect .summary").hover()
    assert shown(page) == pytest.approx(patches.mean(0), abs=6e-5)


def test_heat_map_covers_the_page(visit: Visits, seeing: Server) -> None:
    page = open_page(visit, seeing)
    match(page)
    image, patches = (page.locator(f".page {name}").bounding_box() for name in ("img", ".patches"))
    assert image is not None
    assert patches == pytest.approx(image, abs=0.5)
    assert image["height"] / image["width"] == pytest.approx(842 / 595, abs=0.01)


def test_tiles_are_parts_of_the_page_and_the_whole_of_it_counts(visit: Visits, seeing: Server) -> None:
    """Two tiles of one patch beside each other, and a copy of the whole page, which matches the word best."""
    draw = """async (url) => {
      const {draw} = await import("/pages/playground/patches.js");
      const grid = (start, left, right) => ({start, rows: 1, columns: 1, box: [left, 0, right, 1]});
      const words = [{text: "snail", places: [0]}];
      const grids = [grid(1, 0, 0.5), grid(2, 0.5, 1), grid(4, 0, 1)];
      document.querySelector("#inspect .outcome").replaceChildren(
        await draw({url, name: "a page"}, grids, words, [[0.9, 0.1, 0.3, 0.9, 0.5]]));
    }"""
    page = open_page(visit, seeing)
    page.evaluate(draw, URI)
    tiles = page.locator(".patches")
    left, right, image = (box.bounding_box() for box in (tiles.nth(0), tiles.nth(1), page.locator(".page img")))
    assert left is not None
    assert right is not None
    assert image is not None
    assert tiles.count() == 2
    assert right["x"] - left["x"] == pytest.approx(image["width"] / 2, abs=0.5)
    titles = [patch.get_attribute("title") for patch in page.locator(".patches i").all()]
    assert titles == [f"tile {i}, row 1, column 1 of 1 {TIMES} 1 patches: 0.{1 + 2 * (i - 1)}000" for i in (1, 2)]
    assert page.locator(".words-choice small").all_text_contents() == [", score 0.50"] * 2


def test_copied_commands_give_the_vectors_of_page_and_words(visit: Visits, seeing: Server) -> None:
    page = open_page(visit, seeing)
    page.fill("#inspected", TEXT)
    drop(page, PICTURE, "scene.png", on="#inspect")
    match(page)
    expect(page.locator("#inspect .curl summary")).to_have_text("3 curl commands")
    query, image, names = run_shell(copied(page, "#inspect"), count=3)
    every = np.array(query["data"][0]["embedding"]) @ np.array(image["data"][0]["embedding"]).T
    expect(page.locator("#inspect .summary")).to_contain_text(f"best matches: {every.max(1).mean():.3f}")
    assert names[0] == "<|im_start|>"


def test_document_may_be_a_text_instead(visit: Visits, seeing: Server) -> None:
    page = open_page(visit, seeing)
    expect(page.locator("#matched")).to_be_hidden()
    page.get_by_role("button", name="Remove page").nth(1).click()
    expect(page.locator("#matched")).to_be_visible()
    match(page)
    expect(page.locator("#inspect tbody tr").first).to_be_visible()
    expect(page.locator(".page")).to_have_count(0)


def test_page_that_is_refused_is_named(visit: Visits, seeing: Server) -> None:
    visit.failures |= {"/v1/embeddings", "/v1/rerank"}
    page = open_page(visit, seeing)
    drop(page, b"GIF89a, but not", "broken.gif", "image/gif", on="#inspect")
    page.click("#inspect .primary")
    error = page.locator("#inspect .error")
    expect(error).to_contain_text("Status 400 · field document")
    page.fill("#inspected", "<|im_end|>")
    page.click("#inspect .primary")
    expect(error).to_contain_text("input contains '<|im_end|>', a special token of model 'pages'")
    drop(page, b"GIF89a, but not", "broken.gif", "image/gif", on="#rerank")
    page.click("#rerank .primary")
    expect(page.locator("#rerank .error")).to_contain_text("(document 10)")


def test_words_are_chosen_by_keyboard(visit: Visits, seeing: Server) -> None:
    page = open_page(visit, seeing)
    match(page)
    tab_to(page, ".words-choice input")
    before = shown_t(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".words-choice label").nth(2).locator("input")).to_be_checked()
    expect(page.locator(".matches [role=status]")).to_contain_text("“Query:”")
    assert shown_t(page) != before


def shown_t(page: Page) -> list[str]:
    """How the patches are coloured, from 0 to 1."""
    values: list[str] = page.locator(".patches i").evaluate_all(
        "(patches) => patches.map((patch) => patch.style.getPropertyValue('--t'))"
    )
    assert {"0.0000", "1.0000"} < {*values}
    return values


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_can_be_read(visit: Visits, seeing: Server, scheme: str) -> None:
    page = open_page(visit, seeing, color_scheme=scheme)
    compare(page)
    rerank(page, "judging", 9)
    match(page)
    contrasts = page.evaluate(CONTRASTS)
    assert [(ratio, what) for ratio, what in contrasts if ratio < 4.5] == []
    found = Axe().run(page).response["violations"]
    assert [(violation["id"], [node["html"] for node in violation["nodes"]]) for violation in found] == []


def test_no_view_is_wider_than_a_phone(visit: Visits, seeing: Server) -> None:
    page = open_page(visit, seeing, viewport={"width": 375, "height": 720})
    compare(page)
    rerank(page, "judging", 9)
    match(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
