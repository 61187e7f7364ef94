"""Published data sets and plain tables → one log and one table of items, with an account of every row left out."""

from trainers.readers.amazon import AmazonHubReader, AmazonReader
from trainers.readers.letter import LetterReader
from trainers.readers.minionerec import MiniOneRecReader
from trainers.readers.movielens import MovieLensReader
from trainers.readers.raw_data import RawData, Reader, ReadError, ReadingReport
from trainers.readers.recbole import RecBoleReader
from trainers.readers.tabular import TabularReader
from trainers.readers.utgrec_files import UTGRecFilesReader

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
