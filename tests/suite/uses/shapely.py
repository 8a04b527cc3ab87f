"""Shapes joined, cut, indexed, and written as WKB."""

import shapely
from shapely import wkb
from shapely.geometry import Point, box

joined = shapely.union_all([box(0, 0, 2, 2), box(1, 1, 3, 3)])
assert joined.area == 7
assert wkb.loads(wkb.dumps(joined)).equals(joined)
assert shapely.STRtree([Point(n, n) for n in range(10)]).query(joined).tolist() == [0, 1, 2, 3]
