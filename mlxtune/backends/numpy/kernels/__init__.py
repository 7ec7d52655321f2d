"""Pairs of functions, forward and backward, one pair a file. They write into arrays that they are given."""
