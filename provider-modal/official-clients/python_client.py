# SPDX-License-Identifier: AGPL-3.0-or-later
"""The life of a sandbox with GPUs, by Modal's own Python client: python python_client.py, with MODAL_SERVER_URL set."""

import contextlib
import socket
import sys
import time

import modal

LISTENER = """
import os, socket, sys
print("word is", os.environ["WORD"], flush=True)
print("an error", file=sys.stderr, flush=True)
with socket.create_server(("127.0.0.1", int("0.0.0.0:8000".rpartition(":")[2]))) as server:
    print("listening", flush=True)
    open(sys.argv[1] + "/kept", "w").write("kept")
    connection, _ = server.accept()
    connection.sendall(b"through the tunnel")
    connection.close()
    server.accept()
"""


def connect(address: tuple[str, int]) -> bytes:
    """What the sandbox sends, once it listens."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as connection:
            data = connection.recv(100)
            if data:
                return data
        time.sleep(0.1)
    raise TimeoutError("nothing came through the tunnel")


app = modal.App.lookup("official", create_if_missing=True)
image = modal.Image.from_registry("python:3.12-slim")
volume = modal.Volume.from_name("official-python", create_if_missing=True, version=2)
sandbox = modal.Sandbox.create(
    sys.executable,
    "-c",
    LISTENER,
    "/data",
    app=app,
    image=image,
    gpu="A100-80GB:2",
    cpu=2,
    memory=1024,
    timeout=300,
    idle_timeout=120,
    secrets=[modal.Secret.from_dict({"WORD": "hello"})],
    volumes={"/data": volume},
    unencrypted_ports=[8000],
    encrypted_ports=[8001],
)
sandbox.set_tags({"made-by": "python", "purpose": "test"})
assert sandbox.get_tags() == {"made-by": "python", "purpose": "test"}, sandbox.get_tags()
tunnels = sandbox.tunnels()
assert set(tunnels) == {8000, 8001}, tunnels
assert connect(tunnels[8000].tcp_socket) == b"through the tunnel"
assert tunnels[8001].url.startswith("https://"), tunnels[8001].url
assert tunnels[8001].unencrypted_host in ("", None), tunnels[8001]

lines = iter(sandbox.stdout)
assert [next(lines).strip() for _ in range(2)] == ["word is hello", "listening"]
assert next(iter(sandbox.stderr)).strip() == "an error"

listed = [each.object_id for each in modal.Sandbox.list(app_id=app.app_id, tags={"made-by": "python"})]
assert listed == [sandbox.object_id], listed
assert not list(modal.Sandbox.list(app_id=app.app_id, tags={"made-by": "nobody"}))
assert modal.Sandbox.from_id(sandbox.object_id).poll() is None

sandbox.terminate()
sandbox.wait(raise_on_termination=False)
assert sandbox.poll() == 137, sandbox.returncode
assert not list(modal.Sandbox.list(app_id=app.app_id, tags={"made-by": "python"}))
print("ok", modal.__version__)
