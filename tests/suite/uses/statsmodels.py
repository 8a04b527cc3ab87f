"""A linear model fitted by formula, and its summary."""

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf

frame = pd.DataFrame({"x": np.arange(100.0)})
frame["y"] = 2 * frame["x"] + 5 + np.sin(frame["x"])
fit = smf.ols("y ~ x", data=frame).fit()
assert abs(fit.params["x"] - 2) < 0.01
assert "R-squared" in str(fit.summary())
assert sm.tsa.acf(frame["y"], nlags=3)[0] == 1
