"""epoll."""
from harness import *
