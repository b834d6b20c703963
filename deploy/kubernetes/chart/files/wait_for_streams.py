"""python3 wait_for_streams.py PORT DEREGISTER MAXIMUM: returns once no connection to PORT is open, after MAXIMUM
seconds at the latest.

Runs before a container's SIGTERM. The first DEREGISTER seconds are for load balancers to stop sending.
"""

import sys
import time

port, deregister, maximum = map(int, sys.argv[1:4])
ESTABLISHED = "01"


def connected() -> bool:
    """Whether the kernel knows an established connection of this port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as lines:  # noqa: PTH123 - the smallest program that does it
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        if any(row[3] == ESTABLISHED and int(row[1].rpartition(":")[2], 16) == port for row in rows):
            return True
    return False


time.sleep(deregister)
deadline = time.monotonic() + maximum
while connected() and time.monotonic() < deadline:
    time.sleep(0.5)
