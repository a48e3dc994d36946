"""The CRT step as other servers run it; each file is theirs to load. See benchmarks/serving_peers.py."""
