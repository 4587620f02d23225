"""Images of the Hugging Face hub, or of files in its form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from infra.files import write_whole
from schemas.base import Frozen, digest
from schemas.complaints import nearest
from schemas.errors import ConfigError, DataError
from workers.data.images import SUFFIXES, Images, Row, gather, readable
from workers.data.table import DOMAIN, cell


class HuggingFace:
    """A data set in the form of the Hugging Face library `datasets`: of the hub (downloaded once), or in a folder.

    Needs the extra `huggingface`. Columns are chosen by name: `image`, `label`, and if wanted `domain` and `client`.
    The images are copied into the cache once, by their content. No code of a data set is run.
    """

    class Params(Frozen):
        """name: on the hub, e.g. flwrlabs/pacs; or instead folder: parquet files, or what `save_to_disk` wrote.

        split: which of its splits is read. image, label, domain, client: columns; null where there is none.
        """

        name: str | None = None
        folder: Path | None = None
        split: str = "train"
        image: str = "image"
        label: str = "label"
        domain: str | None = None
        client: str | None = None

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if (self.name is None) == (self.folder is None):
                raise ValueError("give either `name` (on the hub) or `folder` (on this machine)")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params
        self.where = f"data set {params.name or params.folder}"

    def images(self, cache: Path) -> Images:
        """All images of the split, by domain, class and content. Raises DataError; ConfigError without the library."""
        library = _library()
        found = self._load(library, cache / "huggingface")
        p = self.params
        for column in filter(None, (p.image, p.label, p.domain, p.client)):
            if column not in found.column_names:
                raise DataError(f"{self.where}: no column {column!r}", hint=nearest(column, found.column_names))
        if not isinstance(found.features[p.image], library.Image):
            raise DataError(f"{self.where}: column {p.image!r} holds no images")
        rows = self._rows(found.cast_column(p.image, library.Image(decode=False)), cache / "huggingface" / "images")
        return gather(*readable(sorted(rows, key=lambda row: row[:3]), Path(self.where), "fail"))

    def _load(self, library: Any, cache: Path) -> Any:
        p = self.params
        if p.folder is not None and not p.folder.is_dir():
            raise DataError(f"{self.where}: there is no such folder")
        library.disable_progress_bars()
        try:
            if p.folder is not None and (p.folder / "state.json").exists():
                return library.load_from_disk(p.folder)
            if p.folder is not None and (p.folder / "dataset_dict.json").exists():
                return library.load_from_disk(p.folder)[p.split]
            return library.load_dataset(p.name or str(p.folder), split=p.split, cache_dir=str(cache))
        except Exception as e:  # of the hub, of sockets, of parsers: every one means that there are no images
            said = " ".join(str(e).split())[:300]
            raise DataError(f"{self.where}: cannot be loaded: {type(e).__name__}: {said}") from None

    def _rows(self, found: Any, folder: Path) -> Iterator[Row]:
        p = self.params
        for number, row in enumerate(found, start=1):
            at = f"{self.where}: row {number}: "
            said = {
                kind: cell(kind, _text(found.features[column], row[column]), at)
                for kind, column in (("label", p.label), ("domain", p.domain), ("client", p.client))
                if column is not None
            }
            path = _file(row[p.image] or {}, folder, at)
            yield Row(said.get("domain", DOMAIN), said["label"], path, said.get("client"), at=at)


def _library() -> Any:
    try:
        import datasets  # noqa: PLC0415
    except ImportError as e:
        raise ConfigError(
            f"huggingface needs the library datasets: {e}", hint="pip install 'quorate[huggingface]'"
        ) from e
    return datasets


def _text(feature: Any, value: Any) -> str:
    """What a cell says: the name of a class by its number, if the column has names. Empty if it says nothing."""
    names = getattr(feature, "names", None)
    if value is None or (names and not 0 <= value < len(names)):
        return ""
    return str(names[value] if names else value).strip()


def _file(image: dict[str, Any], folder: Path, at: str) -> Path:
    """The file of an image: its own, or one in the folder that bears its content's hash."""
    data, own = image.get("bytes"), Path(image.get("path") or "")
    if data is None:
        if not own.name:
            raise DataError(f"{at}no image")
        return own
    name = digest(data)
    path = folder / name[:2] / f"{name}{own.suffix.lower() if own.suffix.lower() in SUFFIXES else '.png'}"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
    except OSError as e:
        raise DataError(f"cannot keep an image in {folder}: {e.strerror}") from None
    return path
