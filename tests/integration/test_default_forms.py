"""The forms work as they are suggested, by whatever name of this machine the site is opened."""

import re
from html import unescape
from http.cookiejar import CookieJar
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest

from tests.servers import wait_for
from tests.system import Running, System


class Browser:
    """Keeps cookies, and knows the site by one address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cookies = CookieJar()
        self.opener: OpenerDirector = build_opener(HTTPCookieProcessor(self.cookies))

    def get(self, path: str) -> str:
        with self.opener.open(self.url + path, timeout=20) as answer:
            return str(answer.read().decode())

    def post(self, path: str, **fields: str) -> str:
        token = next(cookie.value for cookie in self.cookies if cookie.name == "csrftoken")
        form = urlencode({**fields, "csrfmiddlewaretoken": token}).encode()
        with self.opener.open(self.url + path, form, timeout=20) as answer:
            return str(answer.read().decode())


def sign_in(up: Running, name: str) -> Browser:
    browser = Browser(up.state()["web"].replace("127.0.0.1", name))
    browser.get("/login/")
    browser.post("/login/", username="admin", password=up.output().partition("with password ")[2].split()[0])
    return browser


def latest_words_run(browser: Browser) -> str:
    return browser.get("/").partition('id="run-words"')[2].partition("</article>")[0]


def count_words(browser: Browser, urls: str) -> str:
    """The state of the run, and what its card says."""
    browser.post("/start/words/", urls=urls, words="the")
    wait_for(lambda: 'data-state="running"' not in latest_words_run(browser), "the words are counted", 60)
    return " ".join(re.sub(r"<(?!div)[^>]+>", " ", latest_words_run(browser)).split())


@pytest.mark.core
def test_the_suggested_pages_are_fetched_and_no_other_page_of_the_site(sqlite_system: System) -> None:
    with sqlite_system.up("--no-flower", "--no-beat") as up:
        for name in ("localhost", "127.0.0.1"):
            browser = sign_in(up, name)
            suggested = unescape(browser.get("/").partition('name="urls"')[2].partition(">")[2].partition("<")[0])
            assert suggested.strip().startswith(f"{browser.url}/samples/")
            assert 'data-state="succeeded"' in (shown := count_words(browser, suggested)), shown
            for page in ("/healthz", "/login/", "/samples/../admin/"):
                shown = count_words(browser, browser.url + page)
                assert 'data-state="failed"' in shown
                assert "is not a public address, and tasks fetch from public addresses only" in shown
