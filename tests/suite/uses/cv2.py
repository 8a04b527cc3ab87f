"""Edges, a perspective and a codec; OpenCV spreads the work over threads."""

import cv2
import numpy as np

picture = np.zeros((480, 640, 3), np.uint8)
cv2.circle(picture, (320, 240), 100, (0, 0, 255), -1)
cv2.putText(picture, "text", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 1, (255, 255, 255))
grey = cv2.cvtColor(cv2.GaussianBlur(picture, (7, 7), 0), cv2.COLOR_BGR2GRAY)
edges = cv2.Canny(grey, 50, 150)
outlines, _ = cv2.findContours(edges, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
assert outlines
done, coded = cv2.imencode(".png", picture)
assert done
assert np.array_equal(cv2.imdecode(coded, cv2.IMREAD_COLOR), picture)
