"""Waiting for what another process does: a condition, bytes from a descriptor, the end of a child.

Times only bound a failure, so that a test that hangs ends: nothing passes or fails by how long it
takes. They are for a machine of one's own and are multiplied by `factor` ($TIMEOUT_FACTOR) for
others; even without it they are so long that a busy machine keeps them.
"""
import os
import select
import time

factor = float(os.environ.get("TIMEOUT_FACTOR", "1"))


def until(what, fn, seconds=60, step=0.05, fail=None):
    """The first true result of fn(). `what` says what should happen, or is a function that does.

    `step` is how long to sleep between two looks (0: fn itself waits a little for news). When the
    time is over, fail(sentence) is called, or an AssertionError raised.
    """
    end = time.monotonic() + seconds * factor
    while True:
        late = time.monotonic() > end  # before the last look: we may have been stopped for long
        got = fn()
        if got:
            return got
        if late:
            text = f"{what() if callable(what) else what} did not happen within {seconds * factor:g} s"
            if fail:
                fail(text)
            raise AssertionError(text)
        if step:
            time.sleep(step)


class Output:
    """What has been read from a descriptor so far."""

    def __init__(self, fd):
        self.fd = fd
        self.data = b""
        self.over = False  # the end was seen

    def read(self, seconds=0.1, most=65536):
        """Waits at most so long for something new. False: there was nothing."""
        if self.over or not select.select([self.fd], [], [], max(0, seconds))[0]:
            return False
        try:
            new = os.read(self.fd, most)
        except OSError:  # EIO: a terminal whose other end is closed
            new = b""
        self.data += new
        self.over = not new
        return bool(new)

    def wait_for(self, what, seconds=60):
        """Until these bytes have come."""
        def look():
            if what in self.data:
                return True
            if not self.read() and self.over:
                raise AssertionError(f"{what!r} did not come before the end; there is {self.data!r}")
            return what in self.data
        until(lambda: f"{what!r}, with {self.data!r} there,", look, seconds, 0)


class Child:
    """A process that we have forked."""

    def __init__(self, pid):
        self.pid = pid
        self.code = None  # as subprocess has it: negative for a signal

    def ended(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def end(self, output, seconds=60, fail=None):
        """Its exit code; what it prints meanwhile is read, so that it does not wait for us."""
        def look():
            if not output.read(0.02) and output.over:
                time.sleep(0.02)
            return self.ended()
        until(lambda: f"the end of process {self.pid}, with {output.data[-500:]!r} there,", look,
              seconds, 0, fail)
        while output.read(0):
            pass
        return self.code
