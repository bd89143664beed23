"""Run with the built plugin, which holds the stubs, in the path:
PYTHONPATH=deliveryd-transport-ntfy /usr/bin/python3 -m unittest test_plugin"""

import ipaddress
import socket
import unittest

from deliveryd.transport.v1 import transport_pb2 as pb
from plugin import Failed, Guard


class GuardTest(unittest.TestCase):
    def test_addresses(self):
        guard = Guard(pb.EgressPolicy(allow_cidrs=["10.1.0.0/16"], allow_hosts=["inside.example"]))
        for host, address, want in [
            ("h", "93.184.216.34", True), ("h", "2606:2800:220:1::1", True),
            ("h", "127.0.0.1", False), ("h", "::1", False), ("h", "0.0.0.0", False), ("h", "169.254.169.254", False),
            ("h", "10.0.0.1", False), ("h", "192.168.1.1", False), ("h", "100.64.0.1", False), ("h", "224.0.0.1", False),
            ("h", "fe80::1", False), ("h", "fd00::1", False), ("h", "ff02::1", False),
            ("h", "::ffff:127.0.0.1", False), ("h", "64:ff9b::7f00:1", False), ("h", "2002:7f00:1::", False),
            ("h", "10.1.2.3", True), ("h", "::ffff:10.1.2.3", True),
            ("Inside.Example.", "10.0.0.1", True), ("inside.example.evil", "10.0.0.1", False),
        ]:
            with self.subTest(host=host, address=address):
                self.assertEqual(guard.allows(host, ipaddress.ip_address(address)), want)

    def test_a_blocked_target_is_not_dialled(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.2)
            with self.assertRaises(Failed) as raised:
                Guard(pb.EgressPolicy()).connect(server.getsockname(), 1)
            self.assertEqual(raised.exception.failure.code, "egress.blocked")
            self.assertRaises(TimeoutError, server.accept)
            Guard(pb.EgressPolicy(allow_cidrs=["127.0.0.0/8"])).connect(server.getsockname(), 1).close()
            server.accept()[0].close()


if __name__ == "__main__":
    unittest.main()
