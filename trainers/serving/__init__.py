"""A recommender behind HTTP: requests and their limits, batches, the items that are served and their changes, metrics.

What is here needs the extra `serve` (FastAPI, uvicorn, prometheus-client); `utgrec serve` alone imports it.
"""
