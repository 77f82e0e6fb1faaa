"""Runs in MongoDB, as databroker has them: written beside the catalog, and served in the same tree.

It needs the extra ``mongo``: ``pip install "montango[mongo]"``.
"""
