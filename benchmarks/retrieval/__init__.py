"""Vector search priced and measured: `python -m benchmarks.retrieval`, from the root of the repository.

Faiss (`pip install faiss-cpu`) searches synthetic vectors on one core of this machine. The constants of one core are
fitted to one group of settings, and the prices compared with the measurements of another.
"""
