"""Handwritten digits, learnt by 100 nodes that each see a few of them."""
