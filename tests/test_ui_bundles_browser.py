"""The Bundle tab in a real browser, with a Hub of our own: search, refuse, trust, load, and a shared link."""

from dataclasses import replace

import pytest

from sae_audio.bundle import Bundle
from sae_audio.latent_spaces import CHECKPOINTS

pytest_plugins = ["browser"]
pytestmark = pytest.mark.browser
SLOW = 120_000
NAMED = "document.querySelector('#bundle-view h2')?.textContent === '{}'"


def renamed(folder) -> tuple[Bundle, dict[str, bytes]]:
    """The shipped bundle with its features' names in reverse, so that nobody takes it for the shipped one; and its files."""
    bundle = Bundle.from_pretrained(CHECKPOINTS / "etude")
    bundle = replace(bundle, atlas=replace(bundle.atlas, names=bundle.atlas.names[::-1]))
    bundle.save(folder)
    return bundle, {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def opens_at_42(page, bundle: Bundle) -> None:
    """The Atlas shows feature 42 of this bundle, and keeps it when all else shows the bundle too."""
    page.wait_for_function("document.querySelector('#atlas-card h2 span')?.textContent === '42'", timeout=SLOW)
    seen = "document.querySelector('#features tr[data-feature=\"926\"] td:nth-child(2)')?.textContent"
    page.wait_for_function(f"{seen} === {bundle.atlas.names[926].text!r}", timeout=SLOW)
    page.wait_for_selector("#stopping", state="hidden", timeout=SLOW)
    shown = f"document.querySelector('#atlas-card h2')?.textContent === {'42' + bundle.atlas.names[42].text!r}"
    page.wait_for_function(shown, timeout=SLOW)
    assert page.locator("#atlas tbody tr[aria-selected=true]").count() <= 1 and page.inner_text("#card h2").startswith("42")


def test_pick_a_bundle_of_the_hub_and_share_it(hub, repo_id, run_app, open_page, axe, tmp_path):
    bundle, files = renamed(tmp_path / "mine")
    commit = hub.seed(repo_id, files)
    other = f"{repo_id}-untagged"
    hub.seed(other, files | {"README.md": b"no card\n"})
    with run_app(**hub.env(home=tmp_path, token=None)) as url:
        page = open_page("?tab=bundle", url=url)
        page.wait_for_function(NAMED.format("etude"), timeout=SLOW)
        page.wait_for_selector("#bundle-view .figures img", timeout=SLOW)
        assert "SAE features" in page.inner_text("#bundle-view tr.own")
        assert axe(page) == []
        page.click("#bundle-card button")
        page.wait_for_selector("#bundle-about h2", timeout=SLOW)

        # what is not tagged asks for a word; what is found in the list is loaded
        page.click("text=Hugging Face Hub")
        page.wait_for_selector("#bundle-repo input", timeout=SLOW)
        page.fill("#bundle-repo input", other)
        page.click("#bundle-use")
        page.wait_for_selector("text=is not tagged 'sae-audio'", timeout=SLOW)
        page.fill("#bundle-text input", repo_id.split("/")[1])
        page.click("#bundle-find")
        page.click(f"#bundle-found button[data-repo='{repo_id}']", timeout=SLOW)
        page.wait_for_function(f"document.querySelector('#bundle-revision input').value === '{commit}'", timeout=SLOW)
        page.click("#bundle-use")
        page.wait_for_function(NAMED.format(repo_id), timeout=SLOW)
        assert page.get_attribute("#bundle-view a", "href") == f"https://huggingface.co/{repo_id}/tree/{commit}"
        assert commit in page.inner_text("#bundle-view pre >> nth=0")

        # the same by a link, on another page
        linked = open_page(f"?bundle={repo_id}&revision={commit}&feature=42", url=url, width=390, height=800, dark=True)
        opens_at_42(linked, bundle)
        linked.wait_for_function(
            f"document.querySelector('#atlas .link input')?.value.includes('bundle={repo_id}')", timeout=SLOW
        )
        assert linked.evaluate("document.documentElement.scrollWidth") <= 390
        local = open_page(f"?bundle={tmp_path / 'mine'}&feature=42", url=url)  # a folder, as only the own machine's page reads it
        opens_at_42(local, bundle)
        for opened in (page, linked, local):
            opened.close()  # before the app ends
