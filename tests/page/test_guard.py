"""Only the browser that was given the token, and in it only the page itself, is answered."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from fheinfer.service.page.guard import HEADERS
from tests.page.conftest import PORT, TOKEN

PATHS = ("/", "/page.js", "/page.css", "/api/page", "/api/runs", "/api/examples/vale.jpg", "/api/runs/1/seen.png")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_without_the_cookie(stranger: TestClient, path: str) -> None:
    assert stranger.get(path).status_code == 401
    stranger.cookies.set(f"fheinfer-{PORT}", "x" * 43)
    assert stranger.get(path).status_code == 401


def test_the_token_becomes_a_strict_cookie_and_leaves_the_address(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert answer.headers["refresh"] == "0; url=/"
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie + answer.text
    assert "fheinfer" in stranger.get("/").text


@pytest.mark.parametrize("token", ["", "t", TOKEN[:-1], TOKEN + "t", TOKEN[:-1] + "é"])
def test_no_other_token_becomes_a_cookie(stranger: TestClient, token: str) -> None:
    answer = stranger.get("/", params={"token": token})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", f"localhost:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT}.evil.example", ""]
)
def test_a_name_that_leads_here_is_not_served(browser: TestClient, host: str) -> None:
    assert browser.get("/api/page", headers={"host": host}).status_code == 403
    assert browser.get("/", params={"token": TOKEN}, headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", f"http://localhost:{PORT}", f"https://127.0.0.1:{PORT}"]
)
def test_a_page_of_another_origin_is_refused(browser: TestClient, origin: str) -> None:
    headers = {"origin": origin}
    assert browser.get("/api/page", headers=headers).status_code == 403
    assert browser.request("DELETE", "/api/runs", headers=headers).status_code == 403
    assert browser.post("/api/runs", params={"example": "vale.jpg"}, headers=headers).status_code == 403


def test_what_changes_something_has_to_say_where_it_comes_from(browser: TestClient) -> None:
    del browser.headers["origin"]
    assert browser.get("/api/runs").status_code == 200
    assert browser.request("DELETE", "/api/runs").status_code == 403


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
)
def test_requests_that_another_site_began_are_refused(browser: TestClient, site: str, status: int) -> None:
    assert browser.get("/api/runs", headers={"sec-fetch-site": site}).status_code == status
    opened = browser.get("/", params={"token": TOKEN}, headers={"sec-fetch-site": site})
    assert opened.status_code == 200, "a link with the token may stand anywhere"


def test_every_answer_forbids_what_the_page_does_not_need(browser: TestClient) -> None:
    answers = [browser.get(path) for path in (*PATHS, "/nothing")]
    answers += [browser.get("/", headers={"host": "evil.example"}), browser.post("/api/runs")]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in str(HEADERS)


def test_cookies_of_other_programs_are_in_nobodys_way(browser: TestClient) -> None:
    [(name, value)] = browser.cookies.items()
    browser.cookies.clear()
    assert browser.get("/", headers={"cookie": f'_xsrf=2|a|b; {{"x": [1, 2]}}; {name}={value}'}).status_code == 200


def test_a_damaged_cookie_is_no_cookie(stranger: TestClient) -> None:
    assert stranger.get("/", headers={"cookie": '\x7f="\\; ;;='}).status_code == 401
