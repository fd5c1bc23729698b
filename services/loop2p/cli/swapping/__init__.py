"""What `loop2p swap` is made of: the newcomer's process, what is heard of it, and how it compares."""
