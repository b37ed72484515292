"""The API page in a browser, against a real server."""

import pytest
from playwright.sync_api import expect

from gateway.routes.openapi import document
from tests.browser.conftest import Visits
from tests.serving import Server


def test_every_operation_is_shown(visit: Visits, server: Server) -> None:
    page = visit(f"{server.url}/docs")
    paths = document()["paths"]
    shown = page.locator(".opblock-summary-path")
    expect(shown).to_have_count(sum(len(methods) for methods in paths.values()))
    assert {text.replace("\u200b", "") for text in shown.all_inner_texts()} == set(paths)


def test_operation_can_be_tried(visit: Visits, server: Server) -> None:
    page = visit(f"{server.url}/docs")
    block = page.locator(".opblock", has=page.locator('[data-path="/v1/models"]'))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    expect(block.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    expect(block.locator(".live-responses-table")).to_contain_text("all-minilm-l6-v2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_scheme_is_the_readers(visit: Visits, server: Server, scheme: str) -> None:
    page = visit(f"{server.url}/docs", color_scheme=scheme)
    expect(page.locator("html")).to_have_class("dark-mode" if scheme == "dark" else "")
