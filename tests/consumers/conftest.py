from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.serving import Switch, serving
from tests.fakes.site import Site


@pytest.fixture(scope="session")
def web_server() -> Iterator[tuple[Switch, str]]:
    switch = Switch()
    with serving(switch) as url:
        yield switch, url


@pytest.fixture
def site(web_server: tuple[Switch, str]) -> Site:
    """A web site without pages, at ``url``."""
    web_server[0].app = site = Site()
    return site


@pytest.fixture
def url(site: Site, web_server: tuple[Switch, str]) -> str:
    return web_server[1]
