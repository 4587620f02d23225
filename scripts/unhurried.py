"""FedCLIP that takes its time, so that whoever kills and freezes at random meets tasks at work."""

import time
from random import Random

from pydantic import NonNegativeFloat

from schemas.base import Frozen, derive
from workers.method import Client, Update
from workers.methods.fedclip import FedClip


class Unhurried(FedClip):
    """FedCLIP whose clients sleep before they train. How long changes nothing else."""

    class Params(FedClip.Params):
        """longest_s: each sleeps between 0 and so many seconds, drawn for client and base."""

        longest_s: NonNegativeFloat = 0.5

    def __init__(self, params: Frozen) -> None:
        super().__init__(FedClip.Params())
        self.longest_s = params.longest_s if isinstance(params, Unhurried.Params) else 0.0

    def train(self, client: Client) -> Update:
        """After a while."""
        time.sleep(self.longest_s * Random(derive(0, client.name, client.base)).random())
        return super().train(client)
