"""The web server that `handbell up` runs: `python -m handbell.management.web_server HOST PORT APPLICATION`.

It is waitress, because a thread of it takes a request when all of the request has arrived: clients that send a body or
a head a byte at a time cost a connection each, and keep nobody waiting.
"""

import logging
import signal
import sys
from typing import Any

import waitress
from django.utils.module_loading import import_string

THREADS = 8
MAX_CONNECTIONS = 900  # a process may have 1,024 files open, as systems are set up
SILENT_SECONDS = 30  # after which a connection without a request in work is closed


def stop(*signal_and_frame: Any) -> None:
    """What is in work is answered, for five seconds at most."""
    sys.exit()


def main(host: str, port: str, application: str) -> None:
    signal.signal(signal.SIGTERM, stop)
    app = import_string(application)
    logging.getLogger("waitress").setLevel(logging.ERROR)  # or it would note each request that waits for a moment
    waitress.serve(
        app,
        host=host,
        port=port,
        threads=THREADS,
        connection_limit=MAX_CONNECTIONS,
        channel_timeout=SILENT_SECONDS,
        cleanup_interval=SILENT_SECONDS // 3,
        asyncore_use_poll=True,
        clear_untrusted_proxy_headers=False,  # which proxies are trusted is for Django's settings to say
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
