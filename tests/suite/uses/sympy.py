"""An integral, an equation, and a function made for NumPy."""

import sympy as sp

x = sp.symbols("x")
assert sp.integrate(sp.exp(-x) * sp.sin(x), (x, 0, sp.oo)) == sp.Rational(1, 2)
assert sp.solve(x**2 - 2, x) == [-sp.sqrt(2), sp.sqrt(2)]
assert sp.lambdify(x, sp.sin(x) ** 2, "numpy")(0.0) == 0
