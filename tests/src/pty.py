"""A terminal for a test. Reads one request a line from stdin, and answers each with one line of JSON.

argv: columns, lines, then the command. Its output goes through a terminal emulator.
"""
import json
import signal
import sys
import time

import pexpect
import pyte


class Terminal:
    def __init__(self, columns, lines, command):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.child = pexpect.spawn(command[0], command[1:], dimensions=(lines, columns), timeout=None)
        self.ended = False

    def look(self, seconds):
        """Takes what the program has written, and waits up to `seconds` for something."""
        try:
            data = self.child.read_nonblocking(1 << 16, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        except pexpect.EOF:
            self.ended = True
            return
        self.raw += data
        self.stream.feed(data)

    def wait(self, request):
        deadline = time.monotonic() + request["seconds"]
        while not self.ended:
            self.look(0.05)
            if request["text"] in "\n".join(self.screen.display) or time.monotonic() > deadline:
                return

    def end(self, request):
        deadline = time.monotonic() + request["seconds"]
        while time.monotonic() < deadline and not self.ended:
            self.look(0.05)
        if self.ended:
            self.child.wait()

    def answer(self):
        return {
            "screen": [line.rstrip() for line in self.screen.display],
            "raw": self.raw.decode("utf-8", "replace"),
            "hidden": self.screen.cursor.hidden,
            "ended": self.ended,
            "code": self.child.exitstatus,
        }


terminal = Terminal(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
for line in sys.stdin:
    request = json.loads(line)
    match request["do"]:
        case "wait":
            terminal.wait(request)
        case "keys":
            terminal.child.send(request["keys"])
        case "resize":
            terminal.screen.resize(request["lines"], request["columns"])
            terminal.child.setwinsize(request["lines"], request["columns"])
        case "close":
            terminal.child.ptyproc.fileobj.close()
            terminal.ended = True
        case "end":
            terminal.end(request)
    print(json.dumps(terminal.answer()), flush=True)
if terminal.child.isalive():
    terminal.child.kill(signal.SIGKILL)
