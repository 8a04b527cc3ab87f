"""Sockets, with the network off."""

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

FAMILIES = {
    "TCP": "socket.AF_INET, socket.SOCK_STREAM",
    "UDP": "socket.AF_INET, socket.SOCK_DGRAM",
    "TCP over IPv6": "socket.AF_INET6, socket.SOCK_STREAM",
    "UDP over IPv6": "socket.AF_INET6, socket.SOCK_DGRAM",
    "MPTCP": "socket.AF_INET, socket.SOCK_STREAM, 262",
    "SCTP": "socket.AF_INET, socket.SOCK_STREAM, 132",
    "UDP-Lite": "socket.AF_INET, socket.SOCK_DGRAM, 136",
    "raw": "socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP",
    "raw IPv6": "socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW",
    "unix, stream": "socket.AF_UNIX, socket.SOCK_STREAM",
    "unix, datagram": "socket.AF_UNIX, socket.SOCK_DGRAM",
    "unix, seqpacket": "socket.AF_UNIX, socket.SOCK_SEQPACKET",
    "netlink, routes": "socket.AF_NETLINK, socket.SOCK_RAW, 0",
    "netlink, diagnosis": "socket.AF_NETLINK, socket.SOCK_RAW, 4",
    "netlink, netfilter": "socket.AF_NETLINK, socket.SOCK_RAW, 12",
    "netlink, uevents": "socket.AF_NETLINK, socket.SOCK_RAW, 15",
    "netlink, generic": "socket.AF_NETLINK, socket.SOCK_RAW, 16",
    "packet": "socket.AF_PACKET, socket.SOCK_RAW",
    "vsock": "socket.AF_VSOCK, socket.SOCK_STREAM",
    "alg": "socket.AF_ALG, socket.SOCK_SEQPACKET",
    "bluetooth": "31, socket.SOCK_RAW",
    "CAN": "29, socket.SOCK_RAW, 1",
    "TIPC": "30, socket.SOCK_DGRAM",
    "IPsec keys": "15, socket.SOCK_RAW, 2",
    "XDP": "44, socket.SOCK_RAW",
    "SMC": "43, socket.SOCK_STREAM",
    "RDS": "21, socket.SOCK_SEQPACKET",
    "QIPCRTR": "42, socket.SOCK_DGRAM",
}
ATTACKS = {
    family: Attack(f"import socket; socket.socket({arguments}).close()", "OK", "EPERM")
    for family, arguments in FAMILIES.items()
} | {
    "a pair of datagram sockets": Attack(
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", "OK", "EPERM"
    ),
    "a pair of another family": Attack(
        "import socket; socket.socketpair(socket.AF_INET, socket.SOCK_STREAM)", "ENOTSUP", "EPERM"
    ),
    "connect": Attack('call("connect", -1, 0, 0)', "EBADF", "EPERM"),
    "bind": Attack('call("bind", -1, 0, 0)', "EBADF", "EPERM"),
    "listen": Attack('call("listen", -1, 0)', "EBADF", "EPERM"),
    "accept": Attack('call("accept", -1, 0, 0)', "EBADF", "EPERM"),
    "accept4": Attack('call("accept4", -1, 0, 0, 0)', "EBADF", "EPERM"),
    "sendto an address": Attack('call("sendto", -1, b"x", 1, 0, b"address", 7)', "EBADF", "EPERM"),
    "sendmsg": Attack('call("sendmsg", -1, 0, 0)', "EBADF", "EPERM"),
    "sendmmsg": Attack('call("sendmmsg", -1, 0, 1, 0)', "EBADF", "EPERM"),
    "recvmsg": Attack('call("recvmsg", -1, 0, 0)', "EBADF", "EPERM"),
    "recvmmsg": Attack('call("recvmmsg", -1, 0, 1, 0, 0)', "EBADF", "EPERM"),
    "setsockopt": Attack('call("setsockopt", -1, 1, 2, 0, 0)', "EBADF", "EPERM"),
}


def test_no_socket_is_made_but_a_pair(outside: Place, jail: Place, where: str) -> None:
    """EPERM for each family, and for each call that would reach another address, made or inherited."""
    judge(ATTACKS, outside, jail, where)


PAIR = """
import socket
one, other = socket.socketpair()
"""
BY_PAIR = {
    "a descriptor": Attack(
        PAIR + "socket.send_fds(one, [b'x'], [0]); found = len(socket.recv_fds(other, 1, 1)[1])", "1", "EPERM"
    ),
    "another peer": Attack(PAIR + "one.connect('/nonexistent')", "ENOENT", "EPERM"),
    "another peer, one message": Attack(PAIR + "one.sendto(b'x', '/nonexistent')", "EISCONN", "EPERM"),
    "an option": Attack(PAIR + "one.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)", "OK", "EPERM"),
}


def test_a_pair_of_sockets_leads_nowhere(outside: Place, jail: Place, where: str) -> None:
    """What is left open for asyncio carries bytes between its two ends, and no descriptors."""
    judge(BY_PAIR, outside, jail, where)


CLIENTS = {
    "a loopback service": Attack(
        "import socket; socket.create_connection(('127.0.0.1', 1), 1)", "ECONNREFUSED", "EPERM"
    ),
    "asyncio": Attack(
        "import asyncio; asyncio.run(asyncio.open_connection('127.0.0.1', 1))", "ECONNREFUSED", "EPERM"
    ),
    "a server": Attack("import socket; socket.create_server(('127.0.0.1', 0)).close()", "OK", "EPERM"),
    "the metadata service": Attack(
        "import http.client; http.client.HTTPConnection('127.0.0.1', 1).request('GET', '/')",
        *("ECONNREFUSED", "EPERM"),
    ),
}


def test_the_standard_librarys_clients_are_told(outside: Place, jail: Place, where: str) -> None:
    """PermissionError, at once: nothing waits for a time-out."""
    judge(CLIENTS, outside, jail, where)
