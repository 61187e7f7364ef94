"""Published data sets and plain tables → one log and one table of items, with an account of every row left out."""

from trainers.data.readers.amazon import AmazonHubReader, AmazonReader
from trainers.data.readers.base import RawData, Reader, ReadError, ReadingReport
from trainers.data.readers.letter import LetterReader
from trainers.data.readers.minionerec import MiniOneRecReader
from trainers.data.readers.movielens import MovieLensReader
from trainers.data.readers.recbole import RecBoleReader
from trainers.data.readers.tabular import TabularReader
from trainers.data.readers.utgrec import UTGRecFilesReader

__all__ = [
    "AmazonHubReader",
    "AmazonReader",
    "LetterReader",
    "MiniOneRecReader",
    "MovieLensReader",
    "RawData",
    "ReadError",
    "Reader",
    "ReadingReport",
    "RecBoleReader",
    "TabularReader",
    "UTGRecFilesReader",
]
