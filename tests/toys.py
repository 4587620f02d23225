"""Small stand-ins that are plugins like any other, and the images, owners and tasks that tests need.

A toy CLIP sees a 4 x 4 thumbnail through a fixed random matrix, so encoding costs microseconds.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from infra.blobs import FileBlobs, outlet, readable
from schemas.base import Choice, Frozen, canonical, derive
from schemas.errors import ConfigError
from schemas.experiment import Data, Experiment, Setting
from schemas.messages import ALL, BlobRef, ClientSlot, Kind, Task
from workers import setting as worker_setting
from workers.method import Client, Examples

COLOURS = {"amber": (230, 160, 20), "blue": (20, 60, 220), "green": (30, 170, 60)}
"""The classes of the toy images."""

TTL_S = 60.0


class ToyBackbone:
    """A fixed random projection of a thumbnail to 16 numbers of norm about 10. A text is the colour that it names."""

    class Params(Frozen):
        """seed: of the projection; another seed is another backbone."""

        seed: int = 0

    dim, scale = 16, 20.0

    def __init__(self, params: Params) -> None:
        self.seed = params.seed
        self.seen = 0

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"toy {self.seed}".encode()).hexdigest()

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.resize((4, 4)), dtype=np.float32) / 255 - 0.5
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen += len(batch)
        rows = [self._project(row) for row in batch]  # one by one: the company of a row must not show
        return torch.stack(rows) if rows else torch.zeros(0, self.dim)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([self._text(text) for text in texts])

    def image_tower(self) -> torch.nn.Module:
        linear = torch.nn.utils.skip_init(torch.nn.Linear, 48, self.dim, bias=False)
        linear.weight.data = 3 * self._weights().T.contiguous()
        return torch.nn.Sequential(torch.nn.Flatten(), linear).eval().requires_grad_(False)

    def _weights(self) -> torch.Tensor:
        return torch.randn(48, self.dim, generator=torch.Generator().manual_seed(self.seed))

    def _project(self, pixels: torch.Tensor) -> torch.Tensor:
        return 3 * pixels.reshape(48) @ self._weights()

    def _text(self, text: str) -> torch.Tensor:
        named = [colour for name, colour in COLOURS.items() if name in text]
        noise = torch.randn(self.dim, generator=torch.Generator().manual_seed(derive(self.seed, text)))
        if not named:
            return 5 * noise
        return self._project(self.preprocess(Image.new("RGB", (4, 4), named[0]))) + 2 * noise


class Speechless(ToyBackbone):
    """Has a text tower, in which no words can be learnt."""

    def embed(self, text: str) -> torch.Tensor:
        raise ConfigError("this text tower has no words")

    def encode_steered(self, texts: Sequence[str], context: torch.Tensor) -> torch.Tensor:
        raise ConfigError("this text tower has no words")


def paint(root: Path, *, domains: Sequence[str] = ("flat", "noisy", "striped"), per_class: int = 10) -> Path:
    """Image files of three colours in `<root>/<domain>/<colour>/<i>.png`, 8 x 8 pixels."""
    for d, domain in enumerate(domains):
        for c, (name, colour) in enumerate(COLOURS.items()):
            folder = root / domain / name
            folder.mkdir(parents=True)
            draw = np.random.default_rng([d, c])
            for i in range(per_class):
                pixels = np.clip(np.array(colour) + draw.normal(0, 60 + 20 * d, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return root


def table(root: Path, **columns: Callable[[int], str]) -> Path:
    """`<root>/images.csv`, which lists what was painted there; further columns as functions of the image's number."""
    files = sorted(root.glob("*/*/*.png"))
    rows = [",".join(("path", "label", "domain", *columns))]
    for i, file in enumerate(files):
        domain, label, name = file.relative_to(root).parts
        rows.append(",".join((f"{domain}/{label}/{name}", label, domain, *(of(i) for of in columns.values()))))
    (root / "images.csv").write_text("\n".join(rows) + "\n")
    return root / "images.csv"


def parquet(root: Path, out: Path) -> Path:
    """`<out>/train.parquet` as the library datasets writes it: what was painted in root, with classes by number."""
    import datasets

    files = sorted(root.glob("*/*/*.png"))
    columns = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "label": [file.parent.name for file in files],
        "domain": [file.parent.parent.name for file in files],
        "owner": [i % 2 for i in range(len(files))],
    }
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=sorted(COLOURS)), domain=datasets.Value("string"),
        owner=datasets.Value("int64"),
    )  # fmt: skip
    out.mkdir()
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=features).to_parquet(out / "train.parquet")
    return out


def experiment(root: Path | None = None, **changes: object) -> Experiment:
    """FedCLIP on the toy backbone; with a root, the pool has the painted images there, `striped` held out."""
    data = Data(params={"root": str(root)}, hold_out=("striped",), partition=Choice(name="by_domain")) if root else None
    whole: dict[str, object] = {
        "name": "toy",
        "data": data,
        "sites": None if root else ("elsewhere",),
        "model": {"backbone": {"name": "tests.toys:ToyBackbone"}},
        "method": {"name": "fedclip"},
    }
    return Experiment.model_validate(whole | changes)


TOY = ToyBackbone(ToyBackbone.Params())


class ToyTower:
    """Class texts that a context turns: each coordinate is scaled by what the context says more than at the start."""

    def __init__(self, texts: torch.Tensor) -> None:
        self.texts = texts

    def embed(self, text: str) -> torch.Tensor:
        return torch.zeros(len(text.split()), self.texts.shape[1])

    def encode_steered(self, texts: Sequence[str], context: torch.Tensor) -> torch.Tensor:
        return 5 * self.texts * (1 + torch.tanh(context.sum(dim=0)))


def setting(asked: Experiment | None = None, *, classes: int = 3) -> worker_setting.Setting:
    """A setting without files: random unit class texts of the toy's size."""
    generator = torch.Generator().manual_seed(1)
    texts = torch.nn.functional.normalize(torch.randn(classes, ToyBackbone.dim, generator=generator), dim=1)
    names = tuple(f"class-{i}" for i in range(classes))
    return worker_setting.Setting(
        asked or experiment(), names, texts, ToyBackbone.scale, ToyBackbone.dim, "0" * 64, ToyTower(texts), TOY
    )


def examples(of: worker_setting.Setting, count: int, seed: int) -> Examples:
    """Raw features near their class texts, of norm about 10, as CLIP's are."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(of.classes), (count,), generator=generator)
    noise = torch.randn(count, of.dim, generator=generator)
    return Examples(10 * of.texts[labels] + 2 * noise + torch.linspace(-2, 2, of.dim), labels)


def pictured(of: Examples) -> Examples:
    """Images of which the toy's image tower makes these features."""
    weight = 3 * TOY._weights()
    return Examples((of.x @ torch.linalg.pinv(weight)).reshape(-1, 3, 4, 4), of.y)


def client(
    of: worker_setting.Setting, name: str, incoming: dict[str, torch.Tensor], *, cached: bool = True, **changes: object
) -> Client:
    """A client with 40 training and 10 validation examples of its own; as images if not `cached`."""
    seed, form = derive(0, name), (lambda e: e) if cached else pictured
    given = {"base": 0, "train": form(examples(of, 40, seed)), "val": form(examples(of, 10, seed + 1)), **changes}
    return Client(name=name, setting=of, incoming=incoming, **given)  # type: ignore[arg-type]


class Office:
    """Plays the loop towards a worker: puts blobs and writes tasks. Everything lies in one folder."""

    def __init__(self, root: Path, asked: Experiment) -> None:
        self.blobs, self.asked = FileBlobs(root / "blobs"), asked
        self.setting = self.put("setting.json", canonical(Setting(experiment=asked)))

    def agree(self, classes: tuple[str, ...], fingerprint: str) -> None:
        agreed = Setting(experiment=self.asked, classes=classes, fingerprint=fingerprint)
        self.setting = self.put("agreed.json", canonical(agreed))

    def put(self, key: str, data: bytes) -> BlobRef:
        return self.blobs.put(key, data)

    def task(
        self,
        kind: Kind,
        task_id: str,
        clients: Sequence[str] = (),
        *,
        model: BlobRef | None = None,
        base: int = 0,
        attempt: int = 1,
        private: dict[str, BlobRef] | None = None,
        own: bool = False,
    ) -> Task:
        """A task with its grants. own: the clients keep their private state themselves (a site's do)."""
        outputs = {"describe": ("description",), "init": ("state",)}.get(kind, ())
        return Task(
            run="toy",
            task_id=task_id,
            attempt=attempt,
            kind=kind,
            base=base,
            group=ALL,
            clients=tuple(self._slot(kind, task_id, name, (private or {}).get(name), own) for name in clients),
            setting=readable(self.blobs, self.setting, TTL_S),
            inputs={"model": readable(self.blobs, model, TTL_S)} if model else {},
            outputs={name: outlet(self.blobs, f"{task_id}/{name}", TTL_S) for name in outputs},
            seed=self.asked.seed,
            deadline_s=TTL_S,
        )

    def _slot(self, kind: Kind, task_id: str, name: str, private: BlobRef | None, own: bool) -> ClientSlot:
        outputs = () if kind != "train" else ("update",) if own else ("update", "private")
        return ClientSlot(
            client=name,
            private=readable(self.blobs, private, TTL_S) if private else None,
            outputs={o: outlet(self.blobs, f"{task_id}/{name}/{o}", TTL_S) for o in outputs},
        )
