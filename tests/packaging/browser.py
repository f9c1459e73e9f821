"""A person who signs in to the admin and opens every page that it links to."""

import re
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, build_opener


class Browser:
    def __init__(self, address: str) -> None:
        self.address = address
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))

    def get(self, path: str, data: dict[str, str] | None = None) -> str:
        body = urlencode(data).encode() if data else None
        try:
            with self._opener.open(urljoin(self.address, path), body, timeout=30) as answer:
                return str(answer.read().decode())
        except HTTPError as error:
            raise AssertionError(f"{path} answers {error.code}: {error.read().decode()[:2000]}") from error

    def sign_in(self, username: str, password: str) -> None:
        form = self.get("/admin/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form)
        assert token, form
        sent = {"csrfmiddlewaretoken": token[1], "username": username, "password": password, "next": "/admin/"}
        assert "/admin/logout/" in self.get("/admin/login/", sent), "the password is not right"

    def open_admin(self) -> dict[str, str]:
        """Every list that the index of the admin names, with the page of the first row in it, by their paths."""
        index = self.get("/admin/")
        lists = sorted(set(re.findall(r'href="(/admin/\w+/\w+/)"', index)))
        pages = {path: self.get(path) for path in lists}
        for path, page in list(pages.items()):
            if row := re.search(rf'href="({path}[^"/]+/change/)[^"]*"', page):
                pages[row[1]] = self.get(row[1])
        return pages
