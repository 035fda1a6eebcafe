"""
Replace this process by a command that the kernel kills when the thread which started it ends.

Run:    python -m dcnas_flows.child PARENT COMMAND [ARGUMENT...], PARENT being the pid of the starting process
Takes:  Linux; elsewhere the command runs without that protection
Expect: the command's own exit code
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for death with the parent, give signals their default meaning back, and become the command."""
    parent, *command = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_DFL
        )  # a flow in a shell's background has SIGINT ignored, and that is inherited
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # the parent died before the call above
            os.kill(os.getpid(), signal.SIGKILL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
