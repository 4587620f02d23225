"""Pictures in the place of features: opened when indexed, in the order asked for, never all at once."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from schemas.errors import DataError
from tests.toys import TOY
from workers.data.pictures import Pictures, part, passes, together


def of(folder: Path, count: int) -> Pictures:
    """Images of one grey each, the next one lighter."""
    paths = tuple(folder / f"{i}.png" for i in range(count))
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (i, i, i)).save(path)
    return Pictures(paths, TOY)


def greys(x: torch.Tensor) -> list[int]:
    return [round(float((row.mean() + 0.5) * 255)) for row in x]


def test_a_pass_holds_so_many_at_most_and_all_come_once_in_order(tmp_path: Path) -> None:
    shown = list(passes(of(tmp_path, 69)))  # type: ignore[arg-type]
    assert [len(x) for x in shown] == [32, 32, 5]
    assert [grey for x in shown for grey in greys(x)] == list(range(69))


def test_a_part_and_what_is_put_together_open_no_file(tmp_path: Path) -> None:
    pictures = of(tmp_path, 6)
    for i in (0, 5):
        pictures.paths[i].unlink()  # of those that are left out nothing may be read
    one, two = (part(pictures, torch.tensor(chosen)) for chosen in ([4, 1], [0, 3, 5]))  # type: ignore[arg-type]
    whole = together([one, two])
    assert isinstance(whole, Pictures) and len(whole) == 5
    assert greys(whole[torch.tensor([3, 0, 1])]) == [3, 4, 1]
    with pytest.raises(DataError, match=r"0\.png"):
        whole[torch.tensor([2])]


def test_a_file_that_is_no_image_or_cut_is_named(tmp_path: Path) -> None:
    pictures = of(tmp_path, 2)
    pictures.paths[0].write_text("none")
    pictures.paths[1].write_bytes(pictures.paths[1].read_bytes()[:40])
    for i in (0, 1):
        with pytest.raises(DataError, match=rf"{i}\.png"):
            pictures[torch.tensor([i])]
