#!/bin/sh
# The machines of the rig file in LOOP2P_RIG, for ansible's -i: what is where, without what `loop2p deploy` prepares.
exec loop2p inventory "${LOOP2P_RIG:?set it to the rig file}" "$@"
