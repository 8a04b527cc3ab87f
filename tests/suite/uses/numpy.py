"""A singular value decomposition, a product through BLAS's threads, and a file read back through mmap."""

import tempfile
from pathlib import Path

import numpy as np

rng = np.random.default_rng(7)
matrix = rng.normal(size=(400, 300))
left, values, right = np.linalg.svd(matrix, full_matrices=False)
assert np.allclose(left * values @ right, matrix)
big = rng.normal(size=(700, 700))
assert np.allclose(big @ np.linalg.inv(big), np.eye(700), atol=1e-6)
path = Path(tempfile.gettempdir(), "saved.npy")
np.save(path, matrix)
assert np.array_equal(np.load(path, mmap_mode="r"), matrix)
assert abs(np.fft.ifft(np.fft.fft(matrix[0])) - matrix[0]).max() < 1e-12
