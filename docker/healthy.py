"""Whether a container is well: exit code 0 or 1, and a line that says why. Only the standard library, so that it costs nothing.

python docker/healthy.py server         the Prefect API of PREFECT_API_URL answers, and the UI beside it
python docker/healthy.py worker         this container's worker looks for runs (it was started with --with-healthcheck)
python docker/healthy.py workers gpu    a worker for each GPU of this host is online in that pool, by the API
python docker/healthy.py workers gpu 4  four of them, where a worker has other than one GPU
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request

SECONDS = 5


def main(arguments: list[str]) -> int:
    """Do the check that is named."""
    try:
        match arguments:
            case ["server"]:
                url = os.environ["PREFECT_API_URL"]
                _ask(f"{url}/health")
                _ask(f"{url.removesuffix('/api')}/")
            case ["worker"]:
                port = os.environ.get("PREFECT_WORKER_WEBSERVER_PORT", "8080")
                _ask(f"http://127.0.0.1:{port}/health")
            case ["workers", pool]:
                return _online(pool, _gpus())
            case ["workers", pool, count]:
                return _online(pool, int(count))
            case _:
                print(__doc__)
                return 2
    except (OSError, KeyError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
        return 1
    print("well")
    return 0


def _online(pool: str, expected: int) -> int:
    found = _ask(f"{os.environ['PREFECT_API_URL']}/work_pools/{pool}/workers/filter", b"{}")
    mine = [
        one["name"] for one in json.loads(found) if one["status"] == "ONLINE" and socket.gethostname() in one["name"]
    ]
    print(f"online: {len(mine)} of {expected} of this host: {', '.join(mine)}")
    return 0 if len(mine) >= expected else 1


def _gpus() -> int:
    """The GPUs that `factscale workers` finds; it starts no worker without any."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is not None:
        return max(1, len([one for one in seen.split(",") if one.strip()]))
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    return max(1, len(done.stdout.split()))


def _ask(url: str, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - of this container's own settings
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
        return bytes(answer.read())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
