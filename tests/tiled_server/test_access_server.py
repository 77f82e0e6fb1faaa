"""A catalog with several users over HTTP: keys, embargoes, notes, files, exports, and what is refused."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import jwt
import pytest

from devices.errors import ConfigurationError
from processing.callbacks._catalog_run import connect, disconnect
from tests.tiled_server.access_lab import CALLERS, NOBODY, SERVICE, AccessLab, people_file
from tests.tiled_server.montages import until
from tiled_server.client import montages

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def lab(access_lab: AccessLab) -> AccessLab:
    for number, more in ((1, {}), (2, {"data_session": "s-9"})):
        if f"m-{number}" not in access_lab.made:
            access_lab.acquire(f"m-{number}", proposal=f"p-{number}", **more)
    return access_lab


@pytest.fixture
def people(lab: AccessLab) -> Iterator[AccessLab]:
    """The file of people, to be changed; it is as before afterwards."""
    yield lab
    lab.write_people()
    until(lambda: seen(lab, "sam") == {"m-1"} and seen(lab, "tess") == {"m-2"})


def seen(lab: AccessLab, name: str) -> set[str]:
    found = lab.ask(name, "GET", "/custom/montages").json().get("montages", [])
    return {row["montage_id"] for row in found} & {"m-1", "m-2"}


def key_of(lab: AccessLab, name: str, **asked: Any) -> dict[str, Any]:
    """Let somebody make a key."""
    body = {"expires_in": 3600, "scopes": None} | asked
    return dict(lab.ask(name, "POST", "/api/v1/auth/apikey", json=body).raise_for_status().json())


def with_key(lab: AccessLab, secret: str, path: str, method: str = "GET", **given: Any) -> httpx.Response:
    return lab.ask(NOBODY, method, path, headers={"Authorization": f"Apikey {secret}"}, **given)


def test_a_new_member_and_the_end_of_an_embargo_need_no_restart(people: AccessLab) -> None:
    lab = people
    assert (seen(lab, "sam"), seen(lab, "tess")) == ({"m-1"}, {"m-2"})
    proposals = people_file()["proposals"]
    lab.write_people(proposals=proposals | {"p-1": {"members": ["olive", "sam", "tess"]}})
    until(lambda: seen(lab, "tess") == {"m-1", "m-2"})
    later, past = "2999-01-01", "2020-01-01"
    for day, others in ((later, {"m-2"}), (past, {"m-1", "m-2"}), (later, {"m-2"})):
        shown = {"members": ["olive", "sam"], "public": True, "embargo_until": day}
        lab.write_people(proposals=proposals | {"p-1": shown})
        until(lambda others=others: seen(lab, "tess") == others)  # type: ignore[misc]
        assert seen(lab, "sam") == {"m-1"}
    # what is public is read, and no more
    shown["embargo_until"] = past
    lab.write_people(proposals=proposals | {"p-1": shown})
    until(lambda: seen(lab, "tess") == {"m-1", "m-2"})
    path = "/custom/montages/m-1"
    assert lab.ask("tess", "GET", f"{path}/notes").status_code == 200
    assert lab.ask("tess", "GET", f"{path}/files").status_code == 200
    assert lab.ask("tess", "POST", f"{path}/notes", json={"text": "x"}).status_code == 403


def test_who_is_taken_off_the_list_is_out_at_once(people: AccessLab) -> None:
    lab = people
    secret = key_of(lab, "tess")["secret"]
    assert with_key(lab, secret, "/custom/montages").status_code == 200
    names = {name: role for name, role in people_file()["people"].items() if name != "tess"}
    lab.write_people(people=names, proposals={"p-1": {"members": ["sam"]}})
    # the token that they have, and their key
    until(lambda: lab.ask("tess", "GET", "/custom/montages").status_code == 401)
    until(lambda: with_key(lab, secret, "/custom/montages").status_code == 401)
    assert (
        lab.ask("tess", "POST", "/api/v1/auth/apikey", json={"expires_in": 1, "scopes": []}).status_code
        == 401
    )


def test_keys_have_scopes_tags_and_an_end(lab: AccessLab) -> None:
    made = key_of(lab, "sam", scopes=["read:metadata"], note="for a script")
    path, image = "/custom/montages/m-1", f"/api/v1/array/full/{lab.made['m-1'].uid}/tiles/image"
    assert with_key(lab, made["secret"], path).status_code == 200
    assert with_key(lab, made["secret"], image).status_code == 401
    assert (
        with_key(lab, made["secret"], f"/zarr/v2/{lab.made['m-1'].uid}/tiles/image/0.0.0.0").status_code
        == 403
    )
    assert with_key(lab, made["secret"], f"{path}/notes", "POST", json={"text": "x"}).status_code == 403
    refused = lab.ask(
        "sam", "POST", "/api/v1/auth/apikey", json={"expires_in": 9, "scopes": ["write:metadata"]}
    )
    assert refused.status_code == 403
    # of a member of staff, for one proposal
    narrow = key_of(lab, "stan", scopes=["read:metadata", "read:data"], access_tags=["p-2"])["secret"]
    found = with_key(lab, narrow, "/custom/montages").json()["montages"]
    assert {row["montage_id"] for row in found} == {"m-2"}
    assert with_key(lab, narrow, image).status_code == 404

    short = key_of(lab, "sam", expires_in=1)["secret"]
    until(lambda: with_key(lab, short, path).status_code == 401)
    gone = lab.ask("sam", "DELETE", "/api/v1/auth/apikey", params={"first_eight": made["first_eight"]})
    assert gone.status_code == 204
    until(lambda: with_key(lab, made["secret"], path).status_code == 401)
    for wrong in ("zz", "ab" * 36, made["secret"][:-1], made["secret"][:-2] + "00"):
        assert with_key(lab, wrong, path).status_code in (400, 401), wrong


def test_tokens_that_were_touched_or_are_over(lab: AccessLab) -> None:
    answer = lab.log_in("sam").raise_for_status().json()
    token, path = answer["access_token"], "/custom/montages"
    inside = jwt.decode(token, options={"verify_signature": False})

    def status(text: str) -> int:
        return lab.ask(NOBODY, "GET", path, headers={"Authorization": f"Bearer {text}"}).status_code

    assert status(token) == 200
    head, body, signature = token.split(".")
    mine = jwt.encode(inside | {"ids": [{"idp": "lab", "id": "stan"}]}, "a guess" * 6, algorithm="HS256")
    bare = jwt.encode(inside, "", algorithm="none")
    other = f"{head}.{mine.split('.')[1]}.{signature}"
    for touched in (f"{head}.{body}.{signature[::-1]}", other, mine, bare, "x.y.z", head):
        assert status(touched) == 401, touched
    secret = (lab.server.state_dir / "catalog" / "secret").read_text()
    assert status(jwt.encode(inside | {"exp": int(time.time()) - 5}, secret, algorithm="HS256")) == 401
    # one who is not on the list may log in, and sees nothing
    stranger = lab.log_in("stranger").raise_for_status().json()["access_token"]
    assert status(stranger) == 401
    assert lab.log_in("sam", "wrong").status_code == 401
    refresh = {"refresh_token": answer["refresh_token"]}
    fresh = lab.ask(NOBODY, "POST", "/api/v1/auth/session/refresh", json=refresh).raise_for_status().json()
    assert status(fresh["access_token"]) == 200


TRAVERSALS = (
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
    "../" * 30 + "etc/passwd", "%2e%2e/" * 30 + "etc/passwd", "....//....//etc/passwd", "//etc/passwd",
    "%00", "..\\..\\etc\\passwd", "%252e%252e%252f", "a" * 3000,
)  # fmt: skip


def test_no_path_leads_out(lab: AccessLab) -> None:
    uid = lab.made["m-1"].uid
    routes = [
        "/custom/montages/{}", "/custom/montages/{}/tiles", "/custom/montages/{}/notes",
        "/custom/montages/{}/files", "/custom/montages/{}/heatmap", "/custom/files/{}", "/custom/exports/{}",
        "/custom/exports/{}/file", "/api/v1/metadata/{}", f"/api/v1/metadata/{uid}/{{}}",
        f"/api/v1/array/full/{uid}/tiles/image/{{}}", "/api/v1/table/full/{}", "/api/v1/search/{}",
        "/api/v1/asset/bytes/{}?id=1", f"/api/v1/asset/bytes/{uid}/tiles/image?id=1&relative_path={{}}",
        f"/api/v1/asset/manifest/{uid}/tiles/image?id=1&relative_path={{}}", "/zarr/v2/{}", "/zarr/v3/{}",
        "/ui/{}", "/static/{}", "/api/v1/auth/principal/{}",
    ]  # fmt: skip
    with httpx.Client(headers=lab.headers("stan"), timeout=60) as web:  # one who sees everything
        for route in routes:
            for evil in TRAVERSALS:
                raw = route.format(evil).encode()
                answer = web.get(httpx.URL(lab.server.uri).copy_with(raw_path=raw))
                assert "root:" not in answer.text, (route, evil)
                assert answer.status_code != 500, (route, evil)
                # the pages of the browser's program answer to any name
                assert answer.status_code >= 400 or "/ui/" in route, (route, evil, answer.text[:80])


def test_ids_cannot_be_guessed(lab: AccessLab) -> None:
    files = lab.ask("sam", "GET", "/custom/montages/m-1/files").json()["files"]
    (own,) = files
    assert own["bytes"] == lab.made["m-1"].path.stat().st_size
    assert (own["run"], own["folder"]) == (lab.made["m-1"].uid, False)
    assert str(lab.server.data) not in json.dumps(files)
    path = f"/custom/files/{own['id']}"
    whole = lab.ask("sam", "GET", path)
    assert whole.content == lab.made["m-1"].path.read_bytes()
    assert "content-encoding" not in whole.headers
    # of another's montage, of none, and of a montage that is not there: the same words
    none = lab.ask("sam", "GET", f"/custom/files/{'0' * 48}")
    guesses = [f"{int(own['id'], 16) + step:048x}" for step in (-1, 1)]
    answers = [
        lab.ask("tess", "GET", path),
        *(lab.ask("sam", "GET", f"/custom/files/{one}") for one in guesses),
    ]
    assert {(one.status_code, one.text) for one in answers} == {(404, none.text)}
    for name in ("m-2", "m-none"):
        for part in ("", "/tiles", "/files", "/notes"):
            answer = lab.ask("sam", "GET", f"/custom/montages/{name}{part}")
            assert (answer.status_code, answer.json()) == (404, {"detail": f"no montage {name!r}"})
    huge = lab.ask("sam", "GET", path, headers={"Range": f"bytes=0-{10**18}"})
    assert (huge.status_code, len(huge.content)) == (206, own["bytes"])
    assert lab.ask("sam", "GET", path, headers={"Range": "bytes=" + "0-," * 2000}).status_code == 416
    assert lab.ask("sam", "GET", path, headers={"Range": f"bytes={10**18}-"}).status_code == 416
    assert lab.ask("sam", "HEAD", path).headers["content-length"] == str(own["bytes"])


def test_files_elsewhere_are_not_handed_out(lab: AccessLab) -> None:
    path = lab.made["m-2"].path
    (file_id,) = [one["id"] for one in lab.ask("tess", "GET", "/custom/montages/m-2/files").json()["files"]]
    elsewhere = lab.server.state_dir / "elsewhere.h5"
    path.rename(elsewhere)
    try:
        assert lab.ask("tess", "GET", f"/custom/files/{file_id}").status_code == 404
        path.symlink_to(elsewhere)
        assert lab.ask("tess", "GET", f"/custom/files/{file_id}").status_code == 404
        (row,) = lab.ask("tess", "GET", "/custom/montages/m-2/files").json()["files"]
        assert (row["id"], row["bytes"]) == (None, None)
    finally:
        path.unlink(missing_ok=True)
        elsewhere.rename(path)
    assert lab.ask("tess", "GET", f"/custom/files/{file_id}").status_code == 200


def test_notes_are_kept_found_and_change_no_document(lab: AccessLab) -> None:
    uid = lab.made["m-1"].uid
    before = lab.ask("sam", "GET", f"/api/v1/metadata/{uid}").json()["data"]["attributes"]["metadata"]
    started = time.time()
    note = lab.ask("sam", "POST", "/custom/montages/m-1/notes", json={"text": "A Fold, lower left"}).json()
    assert note["author"] == "sam"
    assert started <= note["time"] <= time.time()
    listed = lab.ask("opal", "GET", "/custom/montages/m-1/notes").json()["notes"]
    assert note in listed
    later = lab.ask("opal", "GET", f"/custom/montages/m-1/notes?after={note['id']}").json()["notes"]
    assert note["id"] not in [one["id"] for one in later]
    for words, whose in (("fold", {"m-1"}), ("LOWER fold", {"m-1"}), ("fold nothing", set()), ("50%", set())):
        found = lab.ask("sam", "GET", "/custom/montages", params={"text": words}).json()["montages"]
        assert {row["montage_id"] for row in found} == whose, words
    assert lab.ask("tess", "GET", "/custom/montages", params={"text": "fold"}).json()["count"] == 0
    after = lab.ask("sam", "GET", f"/api/v1/metadata/{uid}").json()["data"]["attributes"]["metadata"]
    assert after == before
    for text in ("", "  ", "a\0b", "x" * 10_001):
        answer = lab.ask("sam", "POST", "/custom/montages/m-1/notes", json={"text": text})
        assert answer.status_code == 422
    with closing(sqlite3.connect(lab.server.state_dir / "catalog" / "notes.db")) as database:
        for statement in ("UPDATE notes SET text = ''", "DELETE FROM notes"):
            with pytest.raises(sqlite3.IntegrityError, match="never changed"):
                database.execute(statement)


def test_what_is_counted_and_listed_is_of_own_proposals(lab: AccessLab) -> None:
    def get(name: str, path: str) -> Any:
        return lab.ask(name, "GET", path).raise_for_status().json()

    ask = "/custom/worst?by=focus_score&n=1000"
    of = {name: {tile["montage_id"] for tile in get(name, ask)["tiles"]} for name in ("sam", "tess", "opal")}
    assert (of["sam"], of["tess"]) == ({"m-1"}, {"m-2"})
    assert of["opal"] >= {"m-1", "m-2"}
    counted = {name: sum(get(name, "/custom/statistics")["states"].values()) for name in ("sam", "tess")}
    assert counted == {"sam": 3, "tess": 3}
    for scope, found in (("montage=m-1", True), ("montage=m-2", False), ("session=s-9", False)):
        assert bool(get("sam", f"{ask}&{scope}")["tiles"]) == found, scope
    mine, theirs = lab.made["m-1"].uid, lab.made["m-2"].uid
    for path in ("/api/v1/search/?page[limit]=300", "/api/v1/search-deep/?page[limit]=300", "/zarr/v3/"):
        text = lab.ask("sam", "GET", path).raise_for_status().text
        assert mine in text, path
        assert theirs not in text, path
    seen_by_tess = (
        lab.ask("tess", "GET", "/api/v1/distinct/?metadata=start.montage_id").raise_for_status().text
    )
    assert "m-2" in seen_by_tess
    assert "m-1" not in seen_by_tess


def test_exports_are_their_owners(lab: AccessLab) -> None:
    asked = {"montage": "m-1", "format": "csv"}
    assert lab.ask("tess", "POST", "/custom/exports", json=asked).status_code == 404
    by_uid = {"montage": lab.made["m-1"].uid, "format": "csv"}
    assert lab.ask("tess", "POST", "/custom/exports", json=by_uid).status_code == 404
    job = lab.export()
    path = f"/custom/exports/{job}"
    for name in CALLERS:
        expected = {NOBODY: 401, "sam": 200}.get(name, 404)
        assert lab.ask(name, "GET", path).status_code == expected, name
        if name != "sam":
            assert lab.ask(name, "DELETE", path).status_code == (401 if name == NOBODY else 404)
    assert job in [one["id"] for one in lab.ask("sam", "GET", "/custom/exports").json()]
    table = lab.ask("sam", "GET", f"{path}/file")
    assert table.text.count(lab.made["m-1"].uid) == 3
    # the key that it read with is kept nowhere but as its hash
    owned = lab.ask("sam", "GET", "/api/v1/auth/whoami").json()["api_keys"]
    assert "an export" in [key["note"] for key in owned]
    for one in (lab.server.state_dir / "exports").rglob("*.json"):
        assert "api_key" not in one.read_text()


def test_addresses_of_files_are_for_those_who_may_read_them(lab: AccessLab) -> None:
    uid = lab.made["m-1"].uid
    routes = [
        f"/api/v1/container/full/{uid}?format=application/json-seq",
        f"/api/v1/metadata/{uid}/tiles/image?include_data_sources=true",
        f"/api/v1/search/{uid}/tiles?include_data_sources=1&fields=structure",
    ]
    for route in routes:
        assert "file://" in lab.ask("sam", "GET", route).raise_for_status().text, route
        told = lab.ask("olive", "GET", route).raise_for_status()
        assert "file://" not in told.text, route
        assert str(lab.server.data) not in told.text
    documents = lab.ask("olive", "GET", routes[0]).text.split("\x1e")[1:]
    assert [json.loads(one)["name"] for one in documents].count("stream_resource") > 10


def test_the_clients_work_with_a_key(lab: AccessLab) -> None:
    secret = key_of(lab, "sam")["secret"]
    client = connect(lab.server.uri, secret)
    try:
        (found,) = montages(client)
        assert found.montage_id == "m-1"
        assert list(found.tiles["qc_state"]) == ["pending", "fail", "pending"]
        found.annotate("seen with the client")
        written = found.annotations()
        assert list(written.iloc[-1][["author", "text"]]) == ["sam", "seen with the client"]
        assert abs(written["time"].iloc[-1].timestamp() - time.time()) < 600
        with pytest.raises(ConfigurationError, match="text"):
            found.annotate("")
        with pytest.raises(KeyError):
            client[lab.made["m-2"].uid]
        assert lab.made["m-1"].uid in client
    finally:
        disconnect(client)
    assert lab.ask(SERVICE, "GET", "/api/v1/auth/whoami").json()["type"] == "service"


def test_links_are_those_of_a_proxy_with_tls(lab: AccessLab) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "catalog.site.org"}
    about = lab.ask("sam", "GET", "/api/v1/", headers=headers).json()
    assert about["links"]["self"] == "https://catalog.site.org/api/v1"
    node = lab.ask("sam", "GET", f"/api/v1/metadata/{lab.made['m-1'].uid}", headers=headers).json()
    assert node["data"]["links"]["self"].startswith("https://catalog.site.org/")
