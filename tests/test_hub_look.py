"""What a repository is before anything is fetched, from the loopback Hub."""

import pytest

from sae_audio.errors import HubError
from sae_audio.hub.look import look

CARD = b"---\nlibrary_name: sae-audio\ntags:\n- audio\n---\n# A bundle\n"


def test_size_tags_and_commit(hub, repo_id):
    commit = hub.seed(repo_id, {"README.md": CARD, "a.bin": bytes(1000)})
    found = look(repo_id, token=False)
    assert (found.repo, found.revision) == (repo_id, commit)
    known = hub.files(repo_id)
    assert found.files == len(known) and found.size == sum(len(hub.read(repo_id, name)) for name in known) > 1000
    assert {"sae-audio", "audio"} <= found.tags
    assert look(repo_id, commit).revision == commit


@pytest.mark.parametrize(
    ("name", "revision", "reason"),
    [
        (None, "v9", "no branch, tag or commit 'v9'; .*/tree/main lists them"),
        (None, "0123456789ab", "no branch, tag or commit '0123456789ab'; give a commit in full, 40 letters"),
        ("alice/nothing", None, "the Hub has no"),
        ("../../x", None, "cannot be the name"),
    ],
)
def test_what_is_not_there_is_said(hub, repo_id, name, revision, reason):
    hub.seed(repo_id, {"README.md": CARD})
    with pytest.raises(HubError, match=reason):
        look(name or repo_id, revision, token=False)


def test_no_token_is_sent_for_strangers(hub, repo_id):
    hub.seed(repo_id, {"README.md": CARD})
    look(repo_id)
    look(repo_id, token=False)
    assert [request["user"] is None for request in hub.calls("GET", repo_id)] == [False, True]
