from tests.stack.browser import browser
from tests.stack.servers import redis_server, s3_server

__all__ = ["browser", "redis_server", "s3_server"]
