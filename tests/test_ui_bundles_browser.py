"""The Bundle tab in a real browser, with a Hub of our own: search, refuse, trust, load, and a shared link."""

import pytest

from sae_audio.latent_spaces import CHECKPOINTS

pytest_plugins = ["browser"]
pytestmark = pytest.mark.browser
SLOW = 120_000
ETUDE = {path.relative_to(CHECKPOINTS / "etude").as_posix(): path.read_bytes() for path in (CHECKPOINTS / "etude").rglob("*.*")}
NAMED = "document.querySelector('#bundle-view h2')?.textContent === '{}'"


def test_pick_a_bundle_of_the_hub_and_share_it(hub, repo_id, run_app, open_page, axe, tmp_path):
    commit = hub.seed(repo_id, ETUDE)
    other = f"{repo_id}-untagged"
    hub.seed(other, ETUDE | {"README.md": b"no card\n"})
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
        linked.wait_for_function("document.querySelector('#atlas-card h2 span')?.textContent === '42'", timeout=SLOW)
        linked.wait_for_function(
            f"document.querySelector('#atlas .link input')?.value.includes('bundle={repo_id}')", timeout=SLOW
        )
        assert linked.evaluate("document.documentElement.scrollWidth") <= 390
        for opened in (page, linked):
            opened.close()  # before the app ends
