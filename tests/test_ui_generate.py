"""The tab Generate & watch without a browser: what it draws, what it generates, and all of it by gradio_client."""

import base64
import csv
import io
import json
import threading
import time
import zlib
from pathlib import Path

import gradio as gr
import pytest
import soundfile
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from sae_audio.denoising import agreement
from sae_audio.errors import ParameterError
from sae_audio.generation import Request, trace
from sae_audio.traces import Trace, load_trace
from ui import flow, generate, session, song_files, songs
from ui.session import SHIPPED
from ui.shared import Page
from ui.songs import FIRST, STORED_TITLES
from ui.trajectory import COLUMNS, LEVELS, UNDEFINED, Progress, ends_of, packed, run_of, shown

ASKED = {"style": "violin", "notes": "A4:0.5 rest:0.1 E5:0.4", "seconds": 1, "steps": 5, "guidance": 0.0, "seed": 3}
FORM = ["étude-flow, here", "violin", "", "A4:0.5 rest:0.1 E5:0.4", 1, 5, 0.0, 3]


@pytest.fixture(scope="module")
def model():
    return flow.generator("etude-flow")


@pytest.fixture(scope="module")
def found():
    return session.loaded(SHIPPED)


@pytest.fixture(scope="module")
def stored_trace():
    return load_trace(songs.STORED / STORED_TITLES[FIRST])


@pytest.fixture(scope="module")
def url():
    with gr.Blocks() as demo:
        generate.tab(Page(gr.State(SHIPPED), gr.State(None), gr.State(None), gr.State(None), gr.Tabs()))
        demo.unload(session.leave)
    _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    yield url
    demo.close()


def pictures(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(zlib.decompress(base64.b64decode(text))), dtype=torch.uint8)


# --- what is drawn -----------------------------------------------------------------------------------------------------------


def test_pictures_are_square_roots_of_probabilities_highest_class_first(found):
    properties = {name: found.bundle.properties[name] for name in ("loudness", "brightness")}
    p = torch.zeros(2, 3, 20)
    p[1, 0, 19], p[1, 1, 0], p[1, 2, 7] = 1.0, 0.25, 0.01
    posteriors = {f"{name}/acts/{signal}": p if signal == "x1" else p * 0 for name in properties for signal in ("x_t", "x1")}
    out = packed(posteriors, properties, song=1)
    picture = pictures(out["x1"]).reshape(2, 20, 3)  # property, class from the top, frame
    assert picture[0].equal(picture[1]) and picture[0].count_nonzero() == 3
    assert picture[0, 0, 0] == LEVELS and picture[0, 19, 1] == round(0.5 * LEVELS) and picture[0, 12, 2] == round(0.1 * LEVELS)
    assert pictures(out["x_t"]).count_nonzero() == 0


def test_a_long_song_is_thinned_and_a_short_one_is_not():
    assert shown(7).tolist() == list(range(7))
    assert len(shown(1000)) == COLUMNS and shown(1000)[0] == 0 and shown(1000)[-1] == 999


def test_a_stored_song_shows_its_steps_and_all_of_its_curves(stored_trace, found):
    run = run_of(stored_trace, found.bundle)
    assert run["points"] == [0, *range(1, 32, 2)] == sorted(map(int, run["read"]))
    facts = stored_trace.facts["curves"]
    assert run["curves"]["pitch"]["agreement"]["x1"] == facts["pitch"]["read"]["acts/x1"]["agreement"]
    assert run["curves"]["brightness"]["bounded"]["x_t"] == facts["brightness"]["read"]["acts/x_t"]["bounded"]
    rows = sum(prop.n_classes for prop in found.bundle.properties.values())
    assert len(pictures(run["read"]["31"]["x_t"])) == rows * 150
    assert run["read"]["31"]["x_t"] == run["read"]["31"]["x1"] != run["read"]["0"]["x1"]  # at the end they are one


def test_the_line_of_the_end_is_what_was_measured(stored_trace, found):
    ends = {name: list(base64.b64decode(text)) for name, text in ends_of(stored_trace, found.bundle.properties).items()}
    notes = [found.bundle.properties["pitch"].names[c] for c in ends["pitch"] if c != UNDEFINED]
    assert len(ends["pitch"]) == 150 and sum(notes.count(note) for note in ("C4", "E4", "G4", "C5")) > 0.9 * len(notes)


def test_news_compares_with_the_newest_belief(model, found):
    request = flow.request_of(ASKED, model)
    progress = Progress("id", "song", found.bundle.properties, request.steps)
    seen, told = [], []
    for got in flow.points(model, found, request):
        if not isinstance(got, Trace):
            told.append(progress.news(got.index, got.posteriors))
            seen.append(got.posteriors["pitch/acts/x1"].argmax(-1)[0])
    assert [news["step"] for news in told] == [0, 1, 2, 3, 4] and told[2]["says"] == "Denoising, step 2 of 4"
    assert all(news["curves"]["pitch"]["agreement"]["x1"][-1] == 1 for news in told)
    expected = agreement(torch.stack([seen[0], seen[1], seen[2]]))  # as seen from step 2
    assert told[2]["curves"]["pitch"]["agreement"]["x1"] == pytest.approx(expected.tolist(), abs=1e-3)
    assert len(json.dumps(told[2])) < 40_000


# --- how it is run -----------------------------------------------------------------------------------------------------------


def test_points_come_one_by_one_and_end_with_the_librarys_trace(model, found):
    request = flow.request_of(ASKED, model)
    got = list(flow.points(model, found, request))
    same = trace(found.bundle, Request(**{**request.__dict__}), model=model, space=found.space, listen=[1, 2, 3])
    assert [point.index for point in got[:-1]] == [0, 1, 2, 3, 4]
    assert torch.allclose(got[-1].final, same.final, rtol=1e-3, atol=1e-4) and got[-1].listened == (1, 2, 3, 4)


def test_who_leaves_stops_the_work(model, found):
    before = threading.active_count()
    points = flow.points(model, found, flow.request_of(ASKED | {"steps": 64}, model))
    assert next(points).index == 0
    points.close()
    until = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_what_fails_in_the_work_is_raised_where_it_is_watched(model, found):
    asked = flow.request_of(ASKED | {"moves": {"pitch": 2.0}, "window": (0.1, 0.2)}, model)
    with pytest.raises(ParameterError, match="holds no step"):
        list(flow.points(model, found, asked))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seconds": 11}, "the length is 11; it has to be 1 to 10 s"),
        ({"seconds": float("nan")}, "the length is nan"),
        ({"steps": 1}, "the number of steps is 1; it has to be 4 to 64"),
        ({"guidance": 100}, "the guidance is 100; it has to be 0 to 6"),
        ({"seed": -1}, "the seed is -1"),
        ({"seed": None}, "the seed is not given"),
        ({"style": "/etc/passwd.npy"}, "choose one of the list"),
        ({"notes": "H4:1"}, "'H4' is not a note"),
        ({"notes": "C4:0.5 E4:3"}, "the notes last 3.5 s and the song 1 s"),
        ({"notes": "C4:1 " * 200}, "the notes have 1000 characters|the notes have 999 characters"),
        ({"window": (0.7, 0.3)}, "must run forwards"),
    ],
)
def test_what_cannot_be_asked(wrong, message, model):
    with pytest.raises(ParameterError, match=message):
        flow.request_of(ASKED | wrong, model)


def test_diffrhythm_is_offered_only_with_a_checkpoint_and_a_gpu(monkeypatch):
    assert not flow.diffrhythm_is_here()
    monkeypatch.setattr(flow, "DIFFRHYTHM", "ASLP-lab/DiffRhythm-1_2")
    assert flow.diffrhythm_is_here() == torch.cuda.is_available()


def test_a_bundle_of_another_space_leaves_reading_to_the_shipped_one(model, tmp_path):
    import tiny_bundle

    tiny_bundle.tiny_bundle().save(tmp_path / "tiny")  # latents of 6 dimensions
    source, found = flow.reading(session.BundleSource(str(tmp_path / "tiny")), model)
    assert source.name == "etude" and found.bundle.spec.d_in == 64


# --- by API ------------------------------------------------------------------------------------------------------------------


def test_all_of_the_tab_by_api(url, found, model):
    client = Client(url, verbose=False)
    job = client.submit(*FORM, api_name="/generate")
    view = job.result(timeout=120)
    assert view["complete"] and view["title"] == "Violin, seed 3" and view["runs"]["song"]["points"] == [0, 1, 2, 3, 4]
    assert len(job.outputs()) >= 3  # it came step by step

    wav = client.predict("song", 2, api_name="/generate_hear")
    own = trace(found.bundle, flow.request_of(ASKED, model), model=model, space=found.space, listen=None)
    heard, rate = soundfile.read(wav, dtype="int16")
    with torch.inference_mode():
        expected = (found.space.decode(own.at("x1", 2))[0, 0] * 2**15).round().clamp(-(2**15), 2**15 - 1)
    assert rate == 16_000 and (torch.from_numpy(heard).float() - expected).abs().max() <= 4

    view = client.predict(-6, 0, 0, 0.0, 1.0, api_name="/generate_steered")
    rows = {row["title"]: row for row in view["table"]["rows"]}
    assert rows["Loudness"]["asked"] == "-6 dB" and -9 < float(rows["Loudness"]["change"].split()[0]) < -3
    assert rows["Pitch"]["asked"] is None and view["window"] == [0.0, 1.0] and set(view["runs"]) == {"song", "steered"}
    steered, _ = soundfile.read(client.predict("steered", 4, api_name="/generate_hear"))
    plain, _ = soundfile.read(client.predict("song", 4, api_name="/generate_hear"))
    assert (steered**2).mean() < 0.6 * (plain**2).mean()

    view = client.predict("This song's own end", api_name="/generate_control")
    control = view["runs"]["control"]["curves"]["pitch"]["agreement"]
    assert control["x_t"][-1] == 1 and len(control["x_t"]) == 5

    files = {kind: Path(client.predict(api_name=f"/generate_save_{kind}")) for kind in song_files.EXPORTS}
    assert {path.name for path in files.values()} >= {"violin-seed-3-curves.csv", "violin-seed-3-figure.png"}
    rows = list(csv.DictReader(io.StringIO(files["curves"].read_text())))
    assert len(rows) == 3 * 3 * 2 * 2 * 5  # runs, properties, readers, signals, steps
    assert json.loads(files["trace"].read_text())["control"]["curves"]["pitch"]["read"]["acts/x_t"]["agreement"] == control["x_t"]
    assert files["figure"].read_bytes()[:4] == b"\x89PNG"
    settings = json.loads(files["settings"].read_text())
    assert settings["song"]["notes"] == ASKED["notes"] and settings["steered"]["steering"]["moves"] == {"loudness": -6}
    assert settings["bundle"] == {"name": "etude", "revision": None}


def test_visitors_have_songs_of_their_own(url):
    one, other = Client(url, verbose=False), Client(url, verbose=False)
    one.predict(*FORM, api_name="/generate")
    assert soundfile.info(one.predict("song", 4, api_name="/generate_hear")).duration == pytest.approx(1.0)
    assert soundfile.info(other.predict("song", 31, api_name="/generate_hear")).duration == pytest.approx(3.0)  # the precomputed
    title = "Violin, melody"
    assert other.predict(title, api_name="/generate_stored")["id"] == STORED_TITLES[title]
    assert one.predict(api_name="/generate_cancel")["value"]["title"] == "Violin, seed 3"


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        ("/generate", [*FORM[:3], "X9:1", *FORM[4:]], "is not a note"),
        ("/generate_steered", [0, 0, 0, 0, 1], "all three amounts are 0"),
        ("/generate_steered", [-6, 0, 0, 0.9, 0.1], "must run forwards"),
        ("/generate_control", ["My sound from Explore"], "no sound in Explore yet"),
        ("/generate_hear", ["song", 2], "step 2 is not there"),
        ("/generate_hear", ["../../etc", 0], "there is no run"),
        ("/generate_hear", ["steered", 0], "there is no run 'steered'"),
    ],
)
def test_what_goes_wrong_is_said_in_words(call, arguments, message, url):
    with pytest.raises(AppError, match=message):
        Client(url, verbose=False).predict(*arguments, api_name=call)


def test_every_event_is_documented(url):
    described = Client(url, verbose=False).view_api(return_format="dict", print_info=False)["named_endpoints"]
    mine = {name: facts for name, facts in described.items() if name.startswith("/generate")}
    saves = {f"_save_{kind}" for kind in song_files.EXPORTS}
    assert {"", "_stored", "_steered", "_control", "_cancel", "_hear"} | saves == {name[9:] for name in mine}
    assert all(facts["description"] for facts in mine.values())
