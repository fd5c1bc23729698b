"""`loop2p conform`: a rig around one program, and what the role's contract asks of it, clause by clause."""
