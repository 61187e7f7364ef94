"""The images of a catalogue: references that are opened one at a time, and their decoding to RGB."""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from hub_cards.item_ids import is_missing
from tokenization_items.remote_images import RemoteImageError, fetch_image

if TYPE_CHECKING:  # imported with the first column that is Arrow's
    import pyarrow as pa

# Longest side of an image handed out, in pixels: more than any backbone reads.
MAX_SIDE = 1024
# Largest image decoded, in pixels (89 MPixel, Pillow's own default): larger headers are decompression bombs.
MAX_PIXELS = 1024**3 // 4 // 3
# Largest file opened, in bytes: some decoders read it whole.
MAX_FILE_BYTES = 2**29
# Formats of pictures. Pillow knows more, and hands some of them, such as EPS, to other programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# What puts an image upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """An image that cannot be opened or decoded."""


class ImageColumn:
    """
    References to images, one for each item; nothing is opened or decoded until asked for.

    Args:
        values (`Sequence` or `pyarrow.ChunkedArray`): Paths, encoded bytes, `{"bytes", "path"}` (the `Image` feature
            of `datasets`), `PIL.Image.Image`, or `None`.
        root (`str` or `os.PathLike`, *optional*): Folder that paths start from and must stay in. Without it paths are
            taken as they are, which is for paths of your own making.
        allow_remote (`bool`, *optional*, defaults to `False`): Whether to fetch images of https addresses, each time
            that they are asked for (see [`~tokenization_items.remote_images.fetch_image`]).

    Raises:
        ImageError: If a value is none of these.
    """

    def __init__(
        self,
        values: "Sequence | pa.ChunkedArray",
        root: str | os.PathLike | None = None,
        allow_remote: bool = False,
    ):
        if is_arrow(values):
            self.present = _present_in_arrow(values)
        else:
            values = [None if _is_missing(value) else value for value in values]
            self.present = np.array([value is not None for value in values], dtype=bool)
            known = (str, os.PathLike, bytes, dict, Image.Image)
            odd = [row for row, value in enumerate(values) if value is not None and not isinstance(value, known)]
            if odd:
                raise ImageError(
                    f"row {odd[0]}: an image is a path, bytes, {{'bytes', 'path'}} or a PIL image, "
                    f"got {type(values[odd[0]]).__name__}"
                )
        self._sources = [(values, None if root is None else Path(root), allow_remote)]
        self._source = np.zeros(len(values), dtype=np.int32)  # which source holds the image of each item
        self._row = np.arange(len(values))  # and in which row

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, row: int) -> Image.Image | None:
        """RGB image, its longest side at most 1024 pixels; `None` for an item without one. Raises `ImageError`."""
        return open_image(*self._reference(row)) if self.present[row] else None

    def digest(self, row: int) -> str | None:
        """Digest of the content: of the file, or the pixels of a `PIL.Image.Image`. Raises `ImageError`."""
        if not self.present[row]:
            return None
        source, shown = _source(*self._reference(row))
        if isinstance(source, Image.Image):
            image = _decode(source)
            return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        if isinstance(source, io.BytesIO):
            return hashlib.sha256(source.getbuffer()).hexdigest()
        try:
            with open(source, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ImageError(f"image {shown} cannot be read: {error}") from error

    def _reference(self, row: int) -> tuple[object, Path | None, bool]:
        """What [`open_image`] takes."""
        values, root, allow_remote = self._sources[self._source[row]]
        value = values[int(self._row[row])]
        return value.as_py() if is_arrow(value) else value, root, allow_remote

    def addresses(self) -> dict[int, str]:
        """Rows of images that are on other machines, with their addresses; nothing is fetched."""
        found = {}
        for number, (values, _, _) in enumerate(self._sources):
            texts = _paths(values)
            for row in np.flatnonzero(self.present & (self._source == number)).tolist():
                text = texts[int(self._row[row])]
                if text is not None and is_address(text):
                    found[row] = text
        return found

    def without(self, rows: Iterable[int]) -> "ImageColumn":
        """The images, of which none is at these rows."""
        present = self.present.copy()
        present[[*rows]] = False
        return self._like(self._sources, self._source, self._row, present)

    def select(self, rows: np.ndarray) -> "ImageColumn":
        return self._like(self._sources, self._source[rows], self._row[rows], self.present[rows])

    @classmethod
    def concatenate(cls, columns: Sequence["ImageColumn"]) -> "ImageColumn":
        starts = np.cumsum([0, *(len(column._sources) for column in columns)])
        return cls._like(
            [source for column in columns for source in column._sources],
            np.concatenate([column._source + start for column, start in zip(columns, starts, strict=False)]),
            np.concatenate([column._row for column in columns]),
            np.concatenate([column.present for column in columns]),
        )

    @classmethod
    def _like(cls, sources: list, source: np.ndarray, row: np.ndarray, present: np.ndarray) -> "ImageColumn":
        column = cls.__new__(cls)
        column._sources, column._source, column._row, column.present = sources, source, row, present
        return column


def is_arrow(value: object) -> bool:
    """Whether a column or a cell is pyarrow's, which need not be imported to tell."""
    return type(value).__module__.startswith("pyarrow.")


def is_address(text: str) -> bool:
    """Whether a reference to an image is an address on another machine, not a path."""
    return "://" in text or text.lstrip().startswith(("//", "www."))


def _is_missing(value: object) -> bool:
    if isinstance(value, Image.Image):  # compared with itself, as NaN is, it would be decoded
        return False
    if is_missing(value):
        return True
    if isinstance(value, dict):
        return not value.get("bytes") and not value.get("path")
    return isinstance(value, (str, bytes)) and not value


def _present_in_arrow(values: "pa.ChunkedArray") -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_null(kind):
        return np.zeros(len(values), dtype=bool)
    if pa.types.is_struct(kind):
        parts = [name for name in ("bytes", "path") if kind.get_field_index(name) >= 0]
        if parts:
            present = [_filled(pc.struct_field(values, name)) for name in parts]
            return np.logical_or.reduce(present) & pc.is_valid(values).to_numpy()
    elif any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    ):
        return _filled(values)
    raise ImageError(f"an image column holds paths, bytes or {{'bytes', 'path'}}, got Arrow type {kind}")


def _paths(values: Any) -> list[str | None]:
    """What stands in place of the images' contents, `None` where the content itself is there; of a sequence or an
    Arrow column."""
    if not is_arrow(values):
        parts = [
            value.get("path") if isinstance(value, dict) and not value.get("bytes") else value for value in values
        ]
        return [part if isinstance(part, str) else None for part in parts]
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_struct(kind):
        names = [kind.field(number).name for number in range(kind.num_fields)]
        if "path" not in names:
            return [None] * len(values)
        paths = pc.struct_field(values, "path").to_pylist()
        has_bytes = (
            _filled(pc.struct_field(values, "bytes")) if "bytes" in names else np.zeros(len(values), dtype=bool)
        )
        return [None if filled else path for path, filled in zip(paths, has_bytes.tolist(), strict=True)]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return values.to_pylist()
    return [None] * len(values)


def _filled(values: "pa.ChunkedArray") -> np.ndarray:
    """Neither null nor empty, without reading the contents."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(values.type):
        return np.zeros(len(values), dtype=bool)
    return pc.fill_null(pc.greater(pc.binary_length(values), 0), False).to_numpy()


def open_image(value: object, root: Path | None = None, allow_remote: bool = False) -> Image.Image:
    """
    Decodes one image.

    The first frame of an animation is taken, the EXIF orientation applied, transparency laid on white, grey of other
    depths reduced to 8 bits and every mode converted to RGB.

    Args:
        value (`str`, `os.PathLike`, `bytes`, `dict` or `PIL.Image.Image`): The reference.
        root (`Path`, *optional*): Folder that paths start from and must stay in; without it they are taken as given.
        allow_remote (`bool`): Whether to fetch images of https addresses. Otherwise nothing is fetched.

    Raises:
        ImageError: If the image is remote, outside of `root`, missing, broken, truncated, of a format other than
            `FORMATS`, or larger than 89 MPixel.
    """
    source, shown = _source(value, root, allow_remote)
    if isinstance(source, Image.Image):
        return _decode(source)
    try:
        with Image.open(source, formats=_formats()) as image:
            return _decode(image)
    except ImageError as error:
        raise ImageError(f"{error} ({shown})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"huge image: {error} ({shown})") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image, or not in one of the formats {', '.join(FORMATS)} ({shown})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError and others
        raise ImageError(f"broken or truncated image: {error} ({shown})") from error


def _source(value: object, root: Path | None, allow_remote: bool) -> tuple[Path | io.BytesIO | Image.Image, str]:
    """Where an image's content is, and what to call it in an error."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        try:
            return value.copy(), "PIL image"
        except Exception as error:  # of one that was opened, and is read now: as in `open_image`
            raise ImageError(f"broken, truncated or closed image: {error} (PIL image)") from error
    if isinstance(value, (str, os.PathLike)):
        shown = str(value)
        source: Path | io.BytesIO
        if not is_address(shown):
            source = _file_of(value, root)
        elif allow_remote:
            try:
                source = io.BytesIO(fetch_image(shown))
            except RemoteImageError as error:
                raise ImageError(f"remote image {shown}: {error}") from error
        else:
            raise ImageError(f"remote image {shown}: download it first and give its path")
    elif isinstance(value, bytes):
        source, shown = io.BytesIO(value), "image bytes"
    else:
        raise ImageError(f"an image is a path, bytes or a PIL image, got {type(value).__name__}")
    return source, shown


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _file_of(value: str | os.PathLike, root: Path | None) -> Path:
    """The file that a path names; a catalogue's paths must not lead out of its folder, nor may links do so."""
    try:
        path = Path(value) if root is None else root / value
        if root is not None:
            if Path(value).is_absolute() or ".." in Path(value).parts:
                raise ImageError(f"image path {value} leads out of the folder {root}: give one within it")
            real = path.resolve()
            if not any(real.is_relative_to(folder) for folder in _allowed_folders(root)):
                raise ImageError(f"image {path} is a link out of the folder: put the file itself there")
        if not path.is_file():
            raise ImageError(f"missing image file {path}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ImageError(f"huge image file of more than {MAX_FILE_BYTES} bytes ({path})")
    except (OSError, RuntimeError, TypeError) as error:  # a name too long, a loop of links
        raise ImageError(f"image path {str(value)[:200]!r} cannot be opened: {error}") from error
    except ImageError:
        raise
    except ValueError as error:  # characters that no file name has
        raise ImageError(f"image path {str(value)[:200]!r} cannot be opened: {error}") from error
    return path


def _allowed_folders(root: Path) -> list[Path]:
    """Where a link in a folder may lead: into the folder. Files that the Hub's client downloaded are links to its
    `blobs/`, so those are allowed for a folder in its cache."""
    root = root.resolve()
    blobs = [parent.parent / "blobs" for parent in (root, *root.parents) if parent.name == "snapshots"]
    return [root, *blobs[:1]]


def _decode(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"huge image of {width}×{height} pixels, more than {MAX_PIXELS}; make it smaller")
    image.draft(None, (2 * MAX_SIDE, 2 * MAX_SIDE))  # large JPEGs decode at a fraction of their size
    image.load()  # the whole file: verify() does not notice truncation
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _as_8_bits(image)
    if image.mode == "La":  # of which Pillow knows one way
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return image


def _upright(image: Image.Image) -> Image.Image:
    """The image by its EXIF orientation. `ImageOps.exif_transpose` writes the other tags anew, which fails where a
    camera or a program wrote one in a way of its own, though the pixels are whole."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # no EXIF, whatever it is called: the orientation is not known
        return image
    return image if turn is None else image.transpose(turn)


def _as_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or of floating-point numbers (up to 1, or whole ones) in 8 bits, as a viewer shows it."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey: np.ndarray = values >> 8
    else:  # what white is, the file does not say: the least range that holds all values
        known = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0).clip(min=0)
        largest = known.max(initial=0)
        ranges = (1, 255, 65535) if image.mode == "F" else (255, 65535)
        white = next((each for each in ranges if largest <= each), largest)
        grey = known * (255 / white)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(values == clear, 255, grey)
    return Image.fromarray(np.rint(grey).astype(np.uint8))
