"""The page, served on localhost and opened in a browser."""

import threading
from pathlib import Path
from typing import Any

from export.config import ServeConfig
from export.recommender import Recommender
from export.serve_web import open_server

Folders = dict[str, Path]  # by the model's precision, and an index
HOSTILE = {
    4: "<script>document.title='hacked'</script>",
    5: '<img src=x onerror=alert(1)> & "co"',
}
SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1200, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
START_MS = 60_000  # on a busy machine


class Serving:
    """Serves folders on localhost, and notes what the pages ask for and complain of."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser
        self.servers: list[Any] = []
        self.contexts: list[Any] = []
        self.requested: list[str] = []
        self.complaints: list[str] = []

    def open(self, site: Path, *, state: str = "ready", script: str = "", **screen: Any) -> Any:
        """Open a page and wait for its state; `script` runs before those of the page."""
        return self.go(f"http://127.0.0.1:{self.serve(site)}/", state, script, **screen)

    def serve(self, site: Path, port: int = 0) -> int:
        """Serve a folder, and return the port."""
        server = open_server(ServeConfig(site_dir=site, port=port))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.servers.append(server)
        return int(server.server_address[1])

    def stop(self) -> int:
        """End the newest server, and return the port that it had."""
        server = self.servers.pop()
        server.shutdown()
        server.server_close()
        return int(server.server_address[1])

    def go(self, address: str, state: str, script: str = "", **screen: Any) -> Any:
        context = self.browser.new_context(**screen)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(address)
        wait_until(page, f"state={state}")
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        while self.servers:
            self.stop()


def wait_until(page: Any, what: str) -> None:
    """Wait until the page says so: "state=ready", "state=error" or "offline=kept"."""
    page.locator(f"html[data-{what}]").wait_for(timeout=START_MS)


def pick(page: Any, text: str) -> None:
    """Search for a title and take the first one that is found."""
    page.locator("#search").fill(text)
    page.locator("#hits li").first.click()


def measure(page: Any) -> None:
    page.locator("#requests").select_option("200")
    page.locator("#measure").click()
    page.locator("#result").wait_for(timeout=START_MS)


def shown_ids(page: Any) -> list[str]:
    ids: list[str] = page.evaluate(
        "[...document.querySelectorAll('#answers li')].map((row) => row.dataset.id)"
    )
    return ids


def require_answer(page: Any, recommender: Recommender, history: list[str]) -> None:
    """Wait until the page shows what Python answers, which takes the model a moment."""
    expected = recommender.recommend(history).item_ids
    for _ in range(100):
        if shown_ids(page) == expected:
            break
        page.wait_for_timeout(50)
    assert shown_ids(page) == expected


def shown_history(page: Any) -> list[str]:
    return [row.inner_text() for row in page.locator("#history .title").all()]
