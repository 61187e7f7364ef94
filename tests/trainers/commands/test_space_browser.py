"""The page in a browser: every tab is clicked through on a desktop and on a phone, and nothing is fetched from
elsewhere. With UTGREC_SCREENSHOTS=<folder> pictures of each step are left there to be looked at."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainers import Recommender
from trainers.commands.space import SpaceArguments, run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
WAIT = 60_000  # milliseconds

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium on the PATH")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    import socket

    import gradio as gr

    rng = np.random.default_rng(0)
    kinds = ["blue pen with ink and a rather long name", "wooden ruler", "squared paper", "grey stapler"]
    rows = [
        {"customer": f"c{user}", "product": f"p{(user + 4 * step) % 60}", "time": step}
        for user in range(90)
        for step in range(rng.integers(3, 8))
    ]
    products = [{"id": f"p{row}", "name": f"{kinds[row % 4]} number{row // 4}"} for row in range(60)]
    folder = tmp_path_factory.mktemp("shop")
    Recommender.from_interactions(rows, products).save_pretrained(folder)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    yield run(SpaceArguments(str(folder), port=port), wait=False)
    gr.close_all()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield found
        found.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_every_tab(browser, address, width, height):
    page = browser.new_page(viewport={"width": width, "height": height})
    fetched, errors = [], []
    page.on("request", lambda request: fetched.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)

    def step(name):
        page.wait_for_timeout(500)  # what came of the last click may still arrive, and would undo the next
        if folder := os.environ.get("UTGREC_SCREENSHOTS"):
            page.screenshot(path=Path(folder) / f"{width}-{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name

    def tab(name):
        page.get_by_role("tab", name=name).first.click(timeout=WAIT)

    tab("Recommend")
    page.get_by_label("Find items").fill("ruler number3")
    page.get_by_label("wooden ruler number3 (p13)").click(timeout=WAIT)
    history = page.get_by_label("History: item ids")
    page.wait_for_function("box => box.value === 'p13'", arg=history.element_handle(), timeout=WAIT)
    page.get_by_role("button", name="Recommend", exact=True).click()
    page.locator(".u-item").first.wait_for(timeout=WAIT)
    assert page.locator(".u-item").count() == 10 and page.locator(".u-bar").count() == 10
    assert "wooden ruler number3" in page.locator(".u-note b").inner_text()
    step("recommend")
    history.fill("p13\nnobody")
    page.get_by_role("button", name="Recommend", exact=True).click()
    page.get_by_role("alert").wait_for(timeout=WAIT)
    assert "has the id 'nobody'" in page.get_by_role("alert").inner_text()
    step("unknown")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Example").click()
    page.locator(".u-item").first.wait_for(timeout=WAIT)
    assert len(history.input_value().split()) == 3

    tab("Semantic IDs")
    rows = page.locator("fieldset:visible label:visible")
    rows.first.wait_for(timeout=WAIT)
    label = rows.first.inner_text()
    step("tree")
    rows.first.click()
    page.locator(".u-step:visible").wait_for(timeout=WAIT)
    assert label.split(" – ")[0].strip() == page.locator(".u-step:visible .u-code").inner_text().strip()
    step("branch")
    page.get_by_label("Go to").fill("999")
    page.get_by_label("Go to").press("Enter")
    page.locator("[role=alert]:visible").wait_for(timeout=WAIT)
    page.get_by_role("button", name="Whole tree").click()
    page.locator("[role=alert]:visible").wait_for(state="detached", timeout=WAIT)

    tab("New product")
    page.get_by_label("Title").fill("blue pen with ink number14")
    page.get_by_role("button", name="Show its codes").click()
    page.get_by_text("Items with the texts most alike").wait_for(timeout=WAIT)
    step("product")

    tab("Health")
    page.locator(".u-plots img").first.wait_for(timeout=WAIT)
    for row in range(page.locator(".u-plots img").count()):
        assert page.locator(".u-plots img").nth(row).evaluate("image => image.complete && image.naturalWidth > 400")
    step("health")
    page.close()
    assert [url for url in fetched if not url.startswith((address, "data:", "blob:"))] == [] and errors == []
