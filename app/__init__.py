"""A REST service that explains image classifiers with class activation maps."""
