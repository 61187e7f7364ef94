"""Readers of published data sets and plain tables: one log, one table of items, an account of every row left out."""

from collections.abc import Callable
from functools import partial

from trainers.data.readers.amazon import AmazonHubReader, AmazonReader
from trainers.data.readers.base import RawData, Reader, ReadError, ReadingReport
from trainers.data.readers.letter import LetterReader
from trainers.data.readers.minionerec import MiniOneRecReader
from trainers.data.readers.movielens import MovieLensReader
from trainers.data.readers.recbole import RecBoleReader
from trainers.data.readers.tabular import TabularReader
from trainers.data.readers.utgrec import UTGRecFilesReader

# Format to its reader, a dataclass. Its fields, and what its docstring says of them, are the command's flags.
READERS: dict[str, Callable[..., Reader]] = {
    "amazon-2014": partial(AmazonReader, year=2014),
    "amazon-2018": partial(AmazonReader, year=2018),
    "amazon-2023": partial(AmazonReader, year=2023),
    "amazon-2023-hub": AmazonHubReader,
    "movielens": MovieLensReader,
    "recbole": RecBoleReader,
    "letter": LetterReader,
    "minionerec": MiniOneRecReader,
    "utgrec": UTGRecFilesReader,
    "tabular": TabularReader,
}

__all__ = ["READERS", "RawData", "ReadError", "Reader", "ReadingReport"]
