"""Offline analysis: from NWB files of sessions to the paper's numbers. Pure, but for sessions.py, which reads files."""
