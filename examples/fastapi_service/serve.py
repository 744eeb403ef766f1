"""Start the service in two processes, with answers sent at once.

    MODEL_DIR=runs/ml-100k/export/gru-distilled-int8 python examples/fastapi_service/serve.py

`uvicorn service:app --workers 2` starts the same, but its connections wait to fill a packet
(Nagle's algorithm), which costs 40 ms an answer. Connections inherit the option set here.
"""

import socket
import sys

import uvicorn
from uvicorn.supervisors import Multiprocess


def main(port: int = 8000) -> None:
    """Serve on 127.0.0.1 until a signal ends it."""
    config = uvicorn.Config("service:app", port=port, workers=2, log_level="warning")
    listener = config.bind_socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    Multiprocess(config, sockets=[listener]).run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
