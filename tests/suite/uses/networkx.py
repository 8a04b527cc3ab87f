"""Shortest paths and ranks in a graph."""

import networkx as nx

graph = nx.karate_club_graph()
assert nx.shortest_path_length(graph, 0, 33) == 2
assert abs(sum(nx.pagerank(graph).values()) - 1) < 1e-6
