"""A figure with text and a colour bar, rendered to memory as PNG and as PDF."""

import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

figure, (left, right) = plt.subplots(1, 2)
left.plot(np.sin(np.linspace(0, 7, 100)), label="$\\sin x$")
left.legend()
figure.colorbar(right.imshow(np.arange(100).reshape(10, 10)))
for form, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form)
    assert drawn.getvalue().startswith(start)
