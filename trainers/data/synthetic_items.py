"""The items of the built-in catalogue: their attributes, texts and pictures.

A text names purpose, material, price tier and brand with words that all domains share, and a noun of its own domain.
A picture shows the style, as palette and pattern, and no text ever names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

PURPOSES = ("preparing", "making", "cleaning", "storing")
MATERIALS = ("wood", "steel", "glass", "cloth")
PRICES = ("budget", "standard", "premium")
STYLES = ("nordic", "retro", "tropical", "coastal")  # never in a text

# (ground, ink, accent) of each style; the pattern drawn with the ink is the style's as well.
PALETTES = (
    ((236, 234, 226), (168, 176, 184), (112, 136, 160)),
    ((226, 160, 60), (150, 76, 32), (236, 214, 150)),
    ((40, 160, 90), (240, 220, 60), (230, 90, 110)),
    ((70, 140, 205), (236, 244, 250), (24, 60, 120)),
)
FILLERS = ("two year warranty", "easy to assemble", "tested by hand")

# Two nouns for each purpose, in the order of PURPOSES.
NOUNS = {
    "kitchen": (
        ("whisk", "grater"),
        ("saucepan", "skillet"),
        ("dish brush", "scrubber"),
        ("canister", "jar"),
    ),
    "garden": (
        ("rake", "spade"),
        ("planter", "trellis"),
        ("leaf sweeper", "weeder"),
        ("shed box", "tool locker"),
    ),
    "music": (
        ("tuner", "capo"),
        ("guitar", "drum"),
        ("polish kit", "flute swab"),
        ("hard case", "score cabinet"),
    ),
    "office": (
        ("ruler", "notepad"),
        ("stapler", "printer"),
        ("shredder", "dust blower"),
        ("file box", "drawer unit"),
    ),
}
BRANDS = ("Brothwell", "Fernwick", "Mossgate")

IMAGE_SIZE = 64
PERIOD = 12  # of a pattern, in pixels
WITHOUT_IMAGE_SHARE, NEAR_DUPLICATE_SHARE = 0.08, 0.03


@dataclass(frozen=True)
class ItemAttributes:
    """What the process knows of the items of one domain, each an array [num_items].

    Attributes:
        purpose, material, price, style: positions in `PURPOSES`, `MATERIALS`, `PRICES`, `STYLES`.
        popularity: positive weights with a long tail, sum 1.
        duplicate_of: row of the item that this one nearly repeats, -1 for an item of its own.
        has_image: whether the item has a picture.
    """

    purpose: np.ndarray
    material: np.ndarray
    price: np.ndarray
    style: np.ndarray
    popularity: np.ndarray
    duplicate_of: np.ndarray
    has_image: np.ndarray


def draw_attributes(num_items: int, rng: np.random.Generator) -> ItemAttributes:
    """Attributes of `num_items` items: balanced purposes and styles, 3% near-duplicates, 8% without image."""
    # Every (purpose, style) cell gets its share, so that the process can always go on within a user's style.
    cells = rng.permutation(np.arange(num_items) % (len(PURPOSES) * len(STYLES)))
    purpose, style = cells // len(STYLES), cells % len(STYLES)
    material = rng.integers(len(MATERIALS), size=num_items)
    price = rng.choice(len(PRICES), size=num_items, p=(0.35, 0.4, 0.25))
    # Zipf-Mandelbrot; the offset keeps ten items from taking most of the interactions.
    popularity = 1.0 / (np.arange(1, num_items + 1) + 0.07 * num_items)
    popularity = rng.permutation(popularity / popularity.sum())

    duplicates, without_image = round(NEAR_DUPLICATE_SHARE * num_items), round(WITHOUT_IMAGE_SHARE * num_items)
    order = rng.permutation(num_items)
    copies, originals = order[:duplicates], order[duplicates : 2 * duplicates]
    for values in (purpose, style, material, price):
        values[copies] = values[originals]
    duplicate_of = np.full(num_items, -1)
    duplicate_of[copies] = originals
    has_image = np.ones(num_items, dtype=bool)
    has_image[order[2 * duplicates :][:without_image]] = False
    return ItemAttributes(purpose, material, price, style, popularity, duplicate_of, has_image)


def _draw_pattern(draw: ImageDraw.ImageDraw, style: int, ink: tuple[int, ...]) -> None:
    # The same in every picture: shifted patterns would fill an autoencoder's latents with what no taste is about.
    ticks = range(0, IMAGE_SIZE + PERIOD, PERIOD)
    half, end = PERIOD // 2, IMAGE_SIZE
    if style == 0:  # thin upright lines
        for x in ticks:
            draw.line((x, 0, x, end), fill=ink, width=2)
    elif style == 1:  # rings around the centre
        for radius in range(half, end, PERIOD):
            draw.ellipse((32 - radius, 32 - radius, 32 + radius, 32 + radius), outline=ink, width=3)
    elif style == 2:  # slanting bands
        for x in range(-end, end, PERIOD):
            draw.line((x, 0, x + end, end), fill=ink, width=4)
    else:  # dots
        for x in ticks:
            for y in ticks:
                draw.ellipse((x, y, x + half, y + half), fill=ink)


def _draw_picture(style: int, shape: int, jitter: np.ndarray) -> Image.Image:
    """A pattern in the style's palette behind one plain shape; `jitter` holds 6 numbers in [0, 1)."""
    shift = np.rint((jitter[:3] - 0.5) * 40).astype(int)
    ground, ink, accent = (
        tuple(int(c) for c in np.clip(np.array(colour) + shift, 0, 255)) for colour in PALETTES[style]
    )
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), ground)
    draw = ImageDraw.Draw(image)
    _draw_pattern(draw, style, ink)
    x, y, r = 32 + (jitter[3] - 0.5) * 4, 32 + (jitter[4] - 0.5) * 4, 14 + jitter[5] * 4
    box = (x - r, y - r, x + r, y + r)
    if shape == 0:
        draw.ellipse(box, fill=accent, outline=ink)
    elif shape == 1:
        draw.rectangle(box, fill=accent, outline=ink)
    elif shape == 2:
        draw.polygon(((x, y - r), (x + r, y + r), (x - r, y + r)), fill=accent, outline=ink)
    else:
        draw.rectangle((x - r, y - r / 2, x + r, y + r / 2), fill=accent, outline=ink)
    return image


def draw_items(name: str, attributes: ItemAttributes, rng: np.random.Generator) -> list[dict]:
    """Texts and pictures of domain `name`: dicts with item_id, title, features, categories and image."""
    size = len(attributes.purpose)
    noun, brand = rng.integers(2, size=size), rng.integers(len(BRANDS), size=size)
    filler, shape, jitter = rng.integers(len(FILLERS), size=size), rng.integers(4, size=size), rng.random((size, 6))
    copies = np.flatnonzero(attributes.duplicate_of >= 0)
    originals = attributes.duplicate_of[copies]
    for values in (noun, brand, filler, shape):
        values[copies] = values[originals]
    jitter[copies] = np.clip(jitter[originals] + rng.uniform(-0.15, 0.15, size=(len(copies), 6)), 0, 0.999)

    items = []
    for row in range(size):
        purpose, material = PURPOSES[attributes.purpose[row]], MATERIALS[attributes.material[row]]
        thing = NOUNS[name][attributes.purpose[row]][noun[row]]
        edition = ", new edition" if attributes.duplicate_of[row] >= 0 else ""
        items.append(
            {
                "item_id": f"{name}-{row:05d}",
                "title": f"{BRANDS[brand[row]]} {thing}{edition}",
                "features": [
                    f"for {purpose}",
                    f"made of {material}",
                    f"{PRICES[attributes.price[row]]} range",
                    FILLERS[filler[row]],
                ],
                "categories": [f"{purpose} goods"],
                "image": _draw_picture(attributes.style[row], shape[row], jitter[row])
                if attributes.has_image[row]
                else None,
            }
        )
    return items
