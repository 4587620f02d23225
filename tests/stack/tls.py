"""TLS in front of a server that speaks none, as a proxy at an owner's border does it; and certificates for it.

The valkey-server of the wheel is built without TLS. Knows no Quorate, and looks into nothing that passes.
"""

import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.stack.proxy import CHUNK, Door
from tests.stack.servers import needed


def certificate(folder: Path, name: str) -> Path:
    """A file with a certificate for 127.0.0.1 that vouches for itself, and its key."""
    made, openssl = folder / f"{name}.pem", needed(shutil.which("openssl"), "openssl")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    done = subprocess.run([*command, "-keyout", "-"], capture_output=True, text=True, timeout=60, check=True)
    made.write_text(done.stdout)
    return made


class TlsDoor(Door):
    """Takes TLS alone. connect: opens a way to the server behind it."""

    def __init__(self, connect: Callable[[], socket.socket], certificate: Path) -> None:
        self.connect = connect
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with self.context.wrap_socket(client, server_side=True) as near, self.connect() as far:
            while True:
                for one in [near] if near.pending() else select.select([near, far], [], [])[0]:
                    said = one.recv(CHUNK)
                    if not said:
                        return
                    (far if one is near else near).sendall(said)
