"""How often usual films are called unusual, and other images are not: the table of docs/usual_films.md.

    OMP_NUM_THREADS=1 python tests/benchmarks/out_of_distribution.py DIR

DIR holds validation and test.parquet (NIH, 128 x 128). The record is that of the bundled model. Rates in per cent; what was
named is in brackets. Changed films are every third of the test split. Photographs are made here, by another simulator
than the one that the record was measured with. Seed 0.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from cf_cxr import CXRImageProcessor
from cf_cxr.data.phantom import ChestPhantom, PhantomConfig
from cf_cxr.images.out_of_distribution import UsualFilms
from cf_cxr.pretrained import default_model_path

SIDE = 128


def main(folder: str) -> None:
    random = np.random.default_rng(0)
    splits = {name: films(Path(folder) / f"{name}.parquet") for name in ("validation", "test")}
    usual = UsualFilms.from_dict(CXRImageProcessor.from_pretrained(default_model_path()).usual_films)
    test, views, ages = splits["test"]
    sets = {f"usual: {name}": images for name, (images, *_) in splits.items()}
    sets |= {f"usual: test, {view}": test[views == view] for view in ("PA", "AP")}
    sets["usual: test, under 18"] = test[ages < 18]
    some = test[::3]
    sets |= {
        "usual: mirrored": some[:, :, ::-1],
        "usual: gamma 0.5": 255 * (some / 255.0) ** 0.5,
        "usual: gamma 2": 255 * (some / 255.0) ** 2,
        "usual: centre of 80 %": resized(some[:, 13:-13, 13:-13]),
        "usual: blurred (2 pixels)": each(some, lambda film: film.filter(ImageFilter.GaussianBlur(2))),
        "inverted": 255 - some,
        **{f"rotated by {90 * q}°": np.rot90(some, q, (1, 2)) for q in (1, 2, 3)},
        "flipped upside down": some[:, ::-1],
        "photographed screen": np.stack([photograph(film, random) for film in some]),
        "white border of 10 %": bordered(some, 255),
        "black border of 10 %": bordered(some, 0),
        "phantoms": phantoms(200),
        "noise": random.integers(0, 256, (200, SIDE, SIDE)),
        "smooth noise": each(random.integers(0, 256, (200, 6, 6)), lambda film: film.resize((SIDE, SIDE))),
        "gradients": np.stack([gradient(random) for _ in range(200)]),
        "pieces of two photographs": sample_pieces(200, random),
    }
    print("| images | number | called unusual |\n| --- | --- | --- |")
    for name, images in sets.items():
        images = np.ascontiguousarray(images)
        found = [usual.unusual(batch(image[None])) for image in images]
        named = Counter(f["looks"] for f in found if f and f["looks"])
        words = ", ".join(f"{kind} {100 * n / len(images):.1f}" for kind, n in named.most_common(2))
        rate = 100 * np.mean([f is not None for f in found])
        print(f"| {name} | {len(images)} | {rate:.2f}{words and f' ({words})'} |", flush=True)


def films(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 128, 128) of 0 to 255, views and ages of a split."""
    table = pq.read_table(file, columns=["image", "view", "age"])
    views = datasets.Features.from_arrow_schema(table.schema)["view"].int2str(table["view"].to_pylist())
    pictures = (Image.open(io.BytesIO(row["bytes"])) for row in table["image"].to_pylist())
    images = np.stack([np.asarray(picture.convert("L")) for picture in pictures])
    return images, np.array(views), np.array(table["age"].to_pylist())


def batch(images: np.ndarray) -> torch.Tensor:
    """(N, 1, S, S) in [-1, 1]."""
    return torch.from_numpy(np.rint(images).astype(np.float32))[:, None] / 127.5 - 1


def each(images: np.ndarray, change) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(np.uint8(image)))) for image in images])


def resized(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    return each(images, lambda film: film.resize((side, side), Image.Resampling.LANCZOS))


def bordered(images: np.ndarray, level: int) -> np.ndarray:
    return np.pad(resized(images, 104), ((0, 0), (12, 12), (12, 12)), constant_values=level)


def photograph(film: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A screen that shows a film, from the side: a bezel, a room, glare, the screen's lines, a little out of focus."""
    room = np.full((200, 200), random.uniform(60, 220))
    room += random.normal(0, 4, room.shape) + np.linspace(-1, 1, 200) * random.uniform(-30, 30)
    bezel, screen = room.copy(), random.integers(8, 20)
    bezel[25:175, 25:175] = random.uniform(10, 60)
    shown = np.asarray(
        Image.fromarray(film).resize((150 - 2 * screen // 2, 150 - 2 * screen // 2)), np.float64
    )
    start = 25 + screen // 2
    shown = shown * random.uniform(0.6, 0.9) + random.uniform(10, 50) + 3 * (np.arange(len(shown)) % 2)
    bezel[start : start + len(shown), start : start + len(shown)] = shown
    y, x = np.mgrid[:200, :200] / 200
    bezel += random.uniform(0, 60) * np.exp(
        -(((x - random.random()) ** 2 + (y - random.random()) ** 2) / 0.02)
    )
    picture = Image.fromarray(np.uint8(np.clip(bezel, 0, 255))).filter(ImageFilter.GaussianBlur(0.7))
    inwards = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * random.uniform(0, 25, (4, 2))
    corners = np.array([[0, 0], [0, 200], [200, 200], [200, 0]]) + inwards
    quad = tuple(corners.ravel())
    return np.asarray(picture.transform((SIDE, SIDE), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC))


def phantoms(count: int) -> np.ndarray:
    phantom = ChestPhantom(PhantomConfig(resolution=SIDE))
    images = phantom.render(phantom.sample_attributes(count, 0), phantom.sample_noise(count, 0)).pixel_values
    return (np.asarray(images)[:, 0] + 1) * 127.5


def gradient(random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    angle = random.uniform(0, 2 * np.pi)
    slope = random.uniform(0.3, 2) * (x * np.cos(angle) + y * np.sin(angle))
    return np.clip(255 * (random.uniform(0.2, 0.8) + slope), 0, 255)


def sample_pieces(count: int, random: np.random.Generator) -> np.ndarray:
    """Squares of scikit-learn's two sample photographs (a temple, a flower), in grey."""
    pictures = [Image.fromarray(image).convert("L") for image in load_sample_images().images]
    pieces = []
    for i in range(count):
        side, picture = int(random.integers(100, 400)), pictures[i % 2]
        left, top = random.integers(0, picture.width - side), random.integers(0, picture.height - side)
        pieces.append(np.asarray(picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))))
    return np.stack(pieces)


if __name__ == "__main__":
    main(sys.argv[1])
