"""Plugins that behave badly, named by dotted path: what a real worker does with such a task is what is tested."""

import os
import signal
import time
from pathlib import Path

from schemas.base import Frozen
from workers.data.images import Images, read_folder
from workers.method import Client, Merged, Update
from workers.methods.fedclip import FedClip
from workers.methods.perada import PerAda
from workers.tensors import Tensors


class Blocking:
    """Says where it is at work (a file with its process id beside `root`), then waits for `root.go`, 60 s at most."""

    class Params(Frozen):
        """root: as of `folder`."""

        root: Path

    def __init__(self, params: Params) -> None:
        self.root = params.root

    def images(self, cache: Path) -> Images:
        """The images, once they may be seen."""
        part = self.root.with_suffix(".part")
        part.write_text(str(os.getpid()))
        part.replace(self.root.with_suffix(".pid"))  # whoever sees it reads all of it
        until = time.monotonic() + 60
        while not self.root.with_suffix(".go").exists() and time.monotonic() < until:
            time.sleep(0.02)
        return read_folder(self.root)


class Deadly:
    """Kills the process that asks for its images."""

    class Params(Frozen):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        pass

    def images(self, cache: Path) -> Images:
        """Nobody comes back from here."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


class Obedient(FedClip):
    """FedCLIP whose clients do as files say: `<client>.<base>.wait` holds them up, `<client>.<base>.die` kills them.

    Leaves `<client>.<base>.at.<pid>` whenever it begins. Trains as FedCLIP does, whatever it was told.
    """

    class Params(FedClip.Params):
        """orders: the folder of those files."""

        orders: Path

    def __init__(self, params: Params) -> None:
        super().__init__(FedClip.Params())
        self.orders = params.orders

    def train(self, client: Client) -> Update:
        """Once it may."""
        obey(self.orders, f"{client.name}.{client.base}")
        return super().train(client)


class Merging(PerAda):
    """PerAda whose merges do as files say, `merge.<base>.wait` and `merge.<base>.die`, and clients as Obedient's."""

    class Params(PerAda.Params):
        """orders: the folder of those files."""

        orders: Path

    def __init__(self, params: Params) -> None:
        super().__init__(params)
        self.orders = params.orders

    def train(self, client: Client) -> Update:
        """Once it may."""
        obey(self.orders, f"{client.name}.{client.base}")
        return super().train(client)

    def refine(self, merged: Merged) -> Tensors:
        """Once it may."""
        obey(self.orders, f"merge.{merged.base}")
        return super().refine(merged)


def obey(orders: Path, name: str) -> None:
    """Say that a process is at it, then die or wait if that is ordered."""
    until = time.monotonic() + 120
    (orders / f"{name}.at.{os.getpid()}").touch()
    if (orders / f"{name}.die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    while (orders / f"{name}.wait").exists() and time.monotonic() < until:
        time.sleep(0.02)
