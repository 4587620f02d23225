import signal

from hypothesis import settings

from tests.stack.browser import browser
from tests.stack.servers import redis_server, s3_server

__all__ = ["browser", "redis_server", "s3_server"]

# A shell that starts the tests in the background makes them ignore Ctrl-C, and so would whom they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no fault of the code: no example is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
