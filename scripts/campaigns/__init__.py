"""Attacks on the product, by kind: a file for each campaign, and what they share."""
