"""The web page on this machine. Entry point: `python -m export.serve_web`.

Any web server will do for the folder that `export.to_web` writes. This one listens on localhost
alone unless told otherwise, and sends two headers that give the page the browser's finest clock:
where they are missing, browsers round it to .1 ms or 1 ms, which is longer than many an answer
takes (https://www.w3.org/TR/hr-time-3/#dfn-coarsen-time).
"""

import functools
import http.server
import logging
from collections.abc import Sequence
from typing import Any

from seqrec.config import parse_flags
from seqrec.errors import DataError, run_main

from export.config import ServeConfig

logger = logging.getLogger(__name__)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files with the headers named above."""

    # Systems' tables differ, and a browser runs no script that comes as text/plain.
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".json": "application/json",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self) -> None:
        """Add the headers."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        # A browser that keeps a file asks for it by its date, in whole seconds: of two pages served
        # from one address, built in one second or in the other order, it would mix the files.
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing about requests."""


def open_server(config: ServeConfig) -> http.server.ThreadingHTTPServer:
    """Return a server that listens; `serve_forever` answers.

    Raises:
        DataError: there is no page in the folder, or the address cannot be had.
    """
    if not (config.site_dir / "site.json").is_file():
        raise DataError(
            f"no page in {config.site_dir}. Write it: python -m export.to_web "
            f"--output-dir {config.site_dir}"
        )
    handler = functools.partial(_Handler, directory=str(config.site_dir))
    try:
        return http.server.ThreadingHTTPServer((config.host, config.port), handler)
    except OSError as error:
        raise DataError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror or error}). Choose "
            "another port: --port 0 takes one that is free"
        ) from error


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    config = parse_flags(ServeConfig, (__doc__ or "").partition("\n")[0], argv)
    with open_server(config) as server:
        logger.info("http://%s:%s/  (Ctrl-C ends it)", config.host, server.server_address[1])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            logger.info("ended")


if __name__ == "__main__":
    run_main(main)
