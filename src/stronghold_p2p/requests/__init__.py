"""Requests and responses: one stream each, every request ends exactly once.

On the wire a message is its length (unsigned varint) and its body. The dialer of the stream sends the request, the
listener the response; both then close. A rejected request's stream is closed in order without a byte of response.
FIN waits: a requester sends it when the answer has begun, since js-libp2p cannot take it in a stream's first flight.
"""

from .inbound import Request
from .protocol import make_protocols
from .queue import RequestQueue
from .requester import Requester
from .responder import Responder

__all__ = ["Request", "RequestQueue", "Requester", "Responder", "make_protocols"]
