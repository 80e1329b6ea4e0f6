"""Runs over data sets, and the tables and plots made of them."""
