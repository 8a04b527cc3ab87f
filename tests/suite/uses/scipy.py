"""A minimum, an integral, a sparse system, a transform and a statistical test."""

import numpy as np
from scipy import fft, integrate, linalg, optimize, sparse, stats
from scipy.sparse.linalg import spsolve

found = optimize.minimize(optimize.rosen, [1.3, 0.7, 0.8, 1.9, 1.2], method="BFGS")
assert np.allclose(found.x, 1, atol=1e-4)
assert abs(integrate.quad(np.exp, 0, 1)[0] - (np.e - 1)) < 1e-12
system = sparse.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(500, 500), format="csc")
assert np.allclose(system @ spsolve(system, np.ones(500)), 1)
assert np.allclose(fft.ifft(fft.fft(np.arange(64.0), workers=2), workers=2).real, np.arange(64))
assert stats.ttest_ind([1, 2, 3, 4], [11, 12, 13, 14]).pvalue < 0.001
assert np.allclose(linalg.expm(np.zeros((3, 3))), np.eye(3))
