"""`python -m lamplighter.testing.aws --port N`: the pretended AWS as a program, until it is ended. Its address and variables are printed."""

import argparse
import signal
import sys
import threading

from lamplighter.testing.aws import Emulator


def main() -> int:
    """Listen until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m lamplighter.testing.aws")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--region", default="eu-central-1")
    parser.add_argument("--seed", metavar="STACK", help="make a stack of this name, with one pool `spot`")
    parser.add_argument("--installation", default="test", help="of the stack that --seed makes")
    arguments = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Emulator(host=arguments.host, port=arguments.port, region=arguments.region) as aws:
        if arguments.seed:
            aws.seed_stack(arguments.seed, arguments.installation)
        for name, value in aws.environment().items():
            sys.stdout.write(f"export {name}={value}\n")
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
