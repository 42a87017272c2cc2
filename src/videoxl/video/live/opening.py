"""Opens the feed of an address, whatever its scheme."""

from __future__ import annotations

from videoxl.video.live.address import StreamAddress
from videoxl.video.live.feeds import DatagramFeed, Feed, FileFeed, Network, Patience, PipeFeed, SocketFeed
from videoxl.video.live.http import open_http
from videoxl.video.live.rtmp import open_rtmp
from videoxl.video.live.rtsp import open_rtsp


def open_feed(address: StreamAddress, network: Network, patience: Patience) -> Feed:
    """Connect to a stream. Raises :class:`StreamError`, or ``VideoError`` for a file."""
    if address.scheme == "file":
        return FileFeed(address)
    if address.scheme == "stdin":
        return PipeFeed()
    if address.scheme in ("udp", "rtp"):
        return DatagramFeed(address, network)
    if address.scheme == "tcp":
        return SocketFeed(network.connect(address.host, address.port, patience.connect_s))
    protocol = {"http": open_http, "rtsp": open_rtsp, "rtmp": open_rtmp}[address.scheme.removesuffix("s")]
    return protocol(address, network, patience)
