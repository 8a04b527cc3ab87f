"""A regression, a forest on several threads, clusters through OpenMP, and cross-validation."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_score

x = np.arange(50.0).reshape(-1, 1)
model = LinearRegression().fit(x, 3 * x[:, 0] + 1)
assert np.allclose([model.coef_[0], model.intercept_], [3, 1])
data, kinds = load_iris(return_X_y=True)
assert RandomForestClassifier(20, n_jobs=2, random_state=0).fit(data, kinds).score(data, kinds) > 0.95
assert cross_val_score(HistGradientBoostingClassifier(max_iter=10), data, kinds, cv=3).mean() > 0.85
assert len(set(KMeans(3, n_init=2, random_state=0).fit_predict(data))) == 3
