"""The Atlas tab in a real browser: the map, the list, the card and links, by clicking."""

from urllib.parse import parse_qs, urlsplit

import pytest

pytest_plugins = ["browser"]
pytestmark = pytest.mark.browser
SLOW = 120_000
CHOSEN = "document.querySelector('#atlas-card h2 span')?.textContent === '{}'"


def atlas_page(open_page, path="?tab=atlas&feature=708", **kwargs):
    page = open_page(path, **kwargs)
    page.wait_for_function("document.querySelector('#atlas .about')?.textContent.startsWith('t-SNE')", timeout=SLOW)
    return page


def test_browse_find_click_and_share(open_page, axe):
    page = atlas_page(open_page)
    page.wait_for_function(CHOSEN.format(708), timeout=SLOW)  # the link's feature
    assert page.locator("#atlas tbody tr").count() == 100
    assert page.locator("#atlas tbody tr[aria-selected=true]").get_attribute("data-feature") == "708"

    # the list
    page.click("#atlas tbody tr >> nth=1")
    page.wait_for_function(CHOSEN.format(692), timeout=SLOW)
    page.wait_for_function("new URLSearchParams(location.search).get('feature') === '692'", timeout=SLOW)
    link = urlsplit(page.input_value("#atlas .link input"))
    assert parse_qs(link.query) == {"tab": ["atlas"], "bundle": ["etude"], "feature": ["692"]}

    # the filter
    page.fill("#atlas-text input", "G#5")  # at once, as pasting does
    page.wait_for_function("document.querySelector('#atlas .count').textContent === '16 of 1,024 features fit'", timeout=SLOW)
    names = page.locator("#atlas tbody td:nth-child(2)").all_inner_texts()
    assert len(names) == 16 and any("G#5" in name for name in names)

    # the map: the middle of what is shown, then on by arrow keys
    page.focus("#atlas canvas")
    before = page.inner_text("#atlas-card h2 span")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelector('#atlas-card h2 span').textContent !== '{before}'", timeout=SLOW)
    place = page.evaluate(
        """() => { const box = document.querySelector('#atlas canvas').getBoundingClientRect();
        return [box.left, box.top, box.width, box.height]; }"""
    )
    for step in range(60):  # somewhere along the middle there is a feature under the pointer
        page.mouse.move(place[0] + place[2] * (0.2 + 0.01 * step), place[1] + place[3] / 2)
        if page.is_visible("#atlas .tip"):
            break
    pointed = page.inner_text("#atlas .tip b").split()[0]
    page.mouse.down()
    page.mouse.up()
    page.wait_for_function(CHOSEN.format(pointed), timeout=SLOW)

    # the other map, and back by a link as another visitor
    page.click("#atlas [data-view='1']")
    assert "octaves" in page.inner_text("#atlas .about")
    assert axe(page) == []
    other = atlas_page(open_page, "?" + urlsplit(page.input_value("#atlas .link input")).query)
    other.wait_for_function(CHOSEN.format(pointed), timeout=SLOW)

    # random, by number, as a file, and on to the other tabs
    other.click("#atlas-random")
    other.wait_for_function(f"document.querySelector('#atlas-card h2 span').textContent !== '{pointed}'", timeout=SLOW)
    other.fill("#atlas-number input", "42")
    other.keyboard.press("Enter")
    other.wait_for_function(CHOSEN.format(42), timeout=SLOW)
    with other.expect_download() as download:
        other.click("#atlas-csv")
    assert download.value.suggested_filename == "etude features.csv"
    other.click("#atlas-card .steer")
    other.wait_for_selector("#steer-go", timeout=SLOW)
    other.wait_for_function("document.querySelector('#steer-feature input')?.value === '42'", timeout=SLOW)


def test_on_a_phone_in_the_dark_it_fits(open_page, axe):
    page = atlas_page(open_page, width=390, height=800, dark=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert axe(page) == []
