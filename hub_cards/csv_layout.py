"""Layout of a csv file, its encoding, separator and line ends: told from its bytes, or given."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from hub_cards.csv_rows import check_rows, table_rows

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|"}  # as flags say them
SNIFFED_BYTES = 2**16  # of a file, from which its separator is told
SNIFFED_ROWS = 200
CHUNK_BYTES = 2**24
BYTE_ORDER_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


class CsvError(ValueError):
    """A csv file that cannot be read as it is; the message names the file, the line and the fix."""


@dataclass(frozen=True)
class CsvLayout:
    """
    How the text of a csv file is written.

    Args:
        separator (`str`): one character.
        encoding (`str`): Python's name of it.
        line_end (`str`, *optional*, defaults to `"\\n"`): also of lines that end in `"\\r\\n"`; `"\\r"` on old
            Macintoshes.
        mark (`int`, *optional*, defaults to 0): bytes of the byte order mark.
        escaped (`bool`, *optional*, defaults to `False`): a quote in a quoted text has a backslash before it, as Spark
            and MySQL write it, in place of a second quote.
    """

    separator: str
    encoding: str
    line_end: str = "\n"
    mark: int = 0
    escaped: bool = False

    def __str__(self) -> str:
        shown = {"\t": "tab"}.get(self.separator, f"'{self.separator}'")
        return f"separator {shown}, {self.encoding}" + (", quotes after a backslash" if self.escaped else "")

    @property
    def is_usual(self) -> bool:
        """Whether it is what nobody needs to be told: commas, UTF-8, quotes that are doubled."""
        return self.separator == "," and self.encoding == "utf-8" and not self.escaped

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are UTF-8 in lines, as what reads them a part at a time takes them."""
        return self.encoding == "utf-8" and self.line_end == "\n"


def csv_layout(path: Path, separator: str | None = None, encoding: str | None = None) -> CsvLayout:
    """
    The layout of a csv file, gzipped or not, which is read to its end a part at a time.

    Args:
        path (`Path`): the file.
        separator (`str`, *optional*): one character or the name of one, see `SEPARATOR_NAMES`; by default as
            [`separator_of`] tells.
        encoding (`str`, *optional*): by default as [`encoding_of`] tells.

    Raises:
        CsvError: the file cannot be read, its separator or the meaning of its backslashes cannot be told, or what is
            given is none.
    """
    if separator is not None:
        separator = SEPARATOR_NAMES.get(separator, separator)
        if len(separator) != 1:
            raise CsvError(f"separator is one character, or one of {', '.join(SEPARATOR_NAMES)}; got {separator!r}.")
    try:
        with opened(path) as file:
            start = file.read(SNIFFED_BYTES)
        if encoding is None:
            with opened(path) as file:
                encoding, mark = encoding_of(iter(lambda: file.read(CHUNK_BYTES), b""))
        else:
            encoding = codecs.lookup(encoding).name
            mark = next(
                (len(mark) for mark, kind in BYTE_ORDER_MARKS if start.startswith(mark) and kind == encoding), 0
            )
    except LookupError as error:
        raise CsvError(f"encoding is one that Python knows, such as utf-8, cp1252 or utf-16; {error}.") from error
    except (EOFError, OSError, zlib.error) as error:
        raise CsvError(f"{path} cannot be read: {error}. Is the file complete?") from error
    text = start[mark:].decode(encoding, "replace")
    line_end = "\r" if "\r" in text and "\n" not in text else "\n"
    if separator is None:
        text = text if len(start) < SNIFFED_BYTES else text[: text.rfind(line_end) + 1] or text
        separator = separator_of(text.replace("\r", "\n") if line_end == "\r" else text, path.name)
    layout = CsvLayout(separator, encoding, line_end, mark)
    return replace(layout, escaped=file_is_escaped(path, layout))


def file_is_escaped(path: Path, layout: CsvLayout, name: str | None = None) -> bool:
    """
    Whether quotes in the texts of a csv file, gzipped or not, have backslashes before them: [`quotes_are_escaped`].

    Args:
        path (`Path`): the file.
        layout ([`CsvLayout`]): what else is known of it.
        name (`str`, *optional*): of the file, for messages; the path by default.

    Raises:
        CsvError: the file cannot be read, or it cannot be told.
    """
    wanted, before = '\\"'.encode(layout.encoding), b""

    def lines() -> Iterator[str]:
        file = opened(path)
        file.read(layout.mark)
        with io.TextIOWrapper(file, layout.encoding, "replace", newline=layout.line_end) as text:  # type: ignore[arg-type]
            yield from text

    try:
        with opened(path) as file:
            while part := file.read(CHUNK_BYTES):
                if wanted in before + part:
                    return quotes_are_escaped(lines, layout.separator, name or str(path))
                before = part[1 - len(wanted) :]
    except (EOFError, OSError, zlib.error) as error:
        raise CsvError(f"{name or path} cannot be read: {error}. Is the file complete?") from error
    return False


def quotes_are_escaped(lines: Callable[[], Iterable[str]], separator: str, name: str) -> bool:
    """
    Whether a backslash before a quote in a csv text makes the quote a character, as Spark and MySQL write it, or is
    itself one (`"C:\\"`). What all rows can be read by is meant; where both can, what leaves fewer fields out.

    Args:
        lines (`Callable`): gives the lines of a text that holds a backslash before a quote.
        separator (`str`), name (`str`): of the file.

    Raises:
        CsvError: the rows can be read by neither, or by both and differ; the first line that tells so is named.
    """
    escaped_wrong, escaped_whole = check_rows(lines(), separator, escaped=True)
    wrong, whole = check_rows(lines(), separator)
    if escaped_wrong is None and (wrong is not None or escaped_whole > whole):
        return True
    advice = 'put a text with a separator or a quote in it in quotes, and double each quote in it: "a ""b"" c".'
    if wrong is not None:
        raise CsvError(
            f"{name} cannot be read: {wrong} With a quote after a backslash as one of the text: {escaped_wrong} To be "
            f"clear, {advice}"
        )
    if escaped_wrong is None and escaped_whole == whole:
        rows, line = table_rows(lines(), separator, '"'), 1
        for row, other in zip_longest(rows, table_rows(lines(), separator, '"', escaped=True)):
            if "".join(row or "").replace("\\", "") != "".join(other or "").replace("\\", ""):
                raise CsvError(
                    f"{name}: of the row that starts on line {line} it cannot be told whether a backslash before a "
                    f"quote is one of the text: {advice}"
                )
            line = rows.line_num + 1
    return False


def opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """A file's bytes, decompressed on the way if it is gzipped."""
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def write_utf8(path: Path, layout: CsvLayout, target: Path) -> Path:
    """
    Writes the text of a file as UTF-8 with line ends `"\\n"`, without a byte order mark, and returns where.

    Raises:
        CsvError: bytes that are none of the encoding, whose line is named.
    """
    decoder, lines = codecs.getincrementaldecoder(layout.encoding)(), 1
    with opened(path) as source, open(target, "wb") as output:
        source.read(layout.mark)
        for chunk in (*iter(lambda: source.read(CHUNK_BYTES), b""), b""):
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                lines += error.object[: error.start].decode(layout.encoding, "replace").count(layout.line_end)
                raise CsvError(f"{path}, line {lines} is not {layout.encoding}: {error}.") from error
            lines += text.count(layout.line_end)
            output.write((text.replace("\r", "\n") if layout.line_end == "\r" else text).encode("utf-8"))
    return target


def encoding_of(parts: Iterable[bytes]) -> tuple[str, int]:
    """
    The encoding of a text and the bytes of its mark: what its first bytes say, UTF-8 where most of it is that, so that
    one broken character is found rather than all others changed, or else Windows' Latin-1, which nearly all other
    bytes are texts of.

    Args:
        parts (`Iterable[bytes]`): the text's bytes, a part at a time.
    """
    parts = iter(parts)
    first = next(parts, b"")
    for mark, encoding in BYTE_ORDER_MARKS:
        if first.startswith(mark):
            return encoding, len(mark)
    zeros = [first[start:SNIFFED_BYTES:2].count(0) for start in (0, 1)]
    if sum(zeros) > len(first[:SNIFFED_BYTES]) / 4:  # UTF-16 without a mark: every other byte of plain text
        return ("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"), 0
    left = {name: codecs.getincrementaldecoder(name)() for name in ("utf-8", "cp1252")}
    beyond_ascii = False  # before this part
    for part in _with_end(first, parts):
        for name in [*left]:
            try:
                left[name].decode(part, final=not part)
            except UnicodeDecodeError:
                if name == "utf-8" and (beyond_ascii or _is_mostly_utf8(part)):
                    return "utf-8", 0
                del left[name]
        beyond_ascii |= not part.isascii()
        if not left:
            break
    return next(iter(left), "latin-1"), 0


def _is_mostly_utf8(data: bytes) -> bool:
    """Whether more characters beyond ASCII are UTF-8 than are not."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return len(re.findall(r"[^\x00-\x7f]", text)) > 2 * broken


def _with_end(first: bytes, parts: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from parts
    yield b""


def separator_of(text: str, name: str) -> str:
    """The separator of a csv file: that by which most of the first rows have as many fields as the header.

    Raises:
        CsvError: none of [`SEPARATORS`] makes columns.
    """
    sample = text[:SNIFFED_BYTES]
    if len(sample) < len(text):
        sample = sample[: sample.rfind("\n") + 1] or sample
    best, found = (0.0, 1), None
    for separator in SEPARATORS:
        rows = [row for row in split_rows(sample, separator) if row][:SNIFFED_ROWS]
        width = len(rows[0]) if rows else 0
        alike = sum(len(row) == width for row in rows) / max(1, len(rows))
        if width > 1 and (alike, width) > best:
            best, found = (alike, width), separator
    if found is None:
        first = sample.split("\n", 1)[0][:80]
        raise CsvError(
            f"{name}: its first line {first!r} has one column, by comma, semicolon, tab or bar. A table has a line of "
            "column names, then a row in each line."
        )
    return found


def split_rows(text: str, separator: str) -> list[list[str]]:
    """The rows of a csv text; none if it is no csv."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=separator))
    except csv.Error:
        return []
