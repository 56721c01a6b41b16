"""Whether a container is well: exit code 0 or 1, and a line that says why. Only the standard library, so that it costs nothing.

python docker/healthy.py server         the Prefect API of PREFECT_API_URL answers
python docker/healthy.py worker         this container's worker looks for runs (it was started with --with-healthcheck)
python docker/healthy.py workers gpu    a worker of this host is online in that pool, by the API
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import urllib.error
import urllib.request

SECONDS = 5


def main(arguments: list[str]) -> int:
    """Do the check that is named."""
    try:
        match arguments:
            case ["server"]:
                _ask(f"{os.environ['PREFECT_API_URL']}/health")
            case ["worker"]:
                port = os.environ.get("PREFECT_WORKER_WEBSERVER_PORT", "8080")
                _ask(f"http://127.0.0.1:{port}/health")
            case ["workers", pool]:
                return _online(pool)
            case _:
                print(__doc__)
                return 2
    except (OSError, KeyError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print("well")
    return 0


def _online(pool: str) -> int:
    found = _ask(f"{os.environ['PREFECT_API_URL']}/work_pools/{pool}/workers/filter", b"{}")
    mine = [
        one["name"] for one in json.loads(found) if one["status"] == "ONLINE" and socket.gethostname() in one["name"]
    ]
    print(f"online: {', '.join(mine) or 'none of this host'}")
    return 0 if mine else 1


def _ask(url: str, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - of this container's own settings
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
        return bytes(answer.read())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
