"""A transport that publishes each delivery as a message to a topic of ntfy
(https://ntfy.sh) or of any server that takes its HTTP: the second example of a
plugin for deliveryd, in a language that has no SDK."""

import base64
import http.client
import json
import ssl
import urllib.parse

from google.protobuf.duration_pb2 import Duration

from deliveryd.transport.v1 import transport_pb2 as pb
from plugin import Failed, Server, diagnostic, serve

PRIORITIES = ["min", "low", "default", "high", "max"]
USER_AGENT = "deliveryd-transport-ntfy/1.0.0"
EXCERPT = 4 << 10

DESCRIBE = pb.DescribeResponse(
    name="ntfy",
    version="1.0.0",
    summary="Publishes each delivery as a message to a topic of ntfy.",
    homepage="https://ntfy.sh",
    schema=pb.ConfigSchema(
        attributes=[
            pb.Attribute(name="url", type="string", required=True, format="url", description="The topic's URL.", examples=['"https://ntfy.sh/acme-orders"']),
            pb.Attribute(name="token", type="string", secret=True, description="Access token, sent as a bearer token. Only over HTTPS, or within the operator's own networks."),
            pb.Attribute(name="title", type="string", default_json=b'""', description="Title of each message; the delivery's type where it is empty."),
            pb.Attribute(name="priority", type="string", default_json=b'"default"', enum=PRIORITIES, description="Priority of each message."),
        ]
    ),
    # A message is a line on somebody's phone: 64 KiB is generous. Each item at work takes a thread.
    capabilities=pb.Capabilities(max_batch=32, max_in_flight=64, max_item_bytes=64 << 10, test_connection=True),
)


def validate(config):
    """Checks without network. The daemon has checked the types already; the kit
    and a future host may not have."""
    if not config.get("url"):
        return [diagnostic("url", "the topic's URL is missing")]
    found = []
    url = urllib.parse.urlsplit(str(config["url"]))
    if url.scheme not in ("http", "https") or not url.hostname or url.path in ("", "/"):
        found.append(diagnostic("url", "this is not the URL of a topic", "Want http or https, a host and a topic: https://ntfy.sh/acme-orders"))
    if url.username or url.password:
        found.append(diagnostic("url", "the URL holds credentials", "Put them into token, which is encrypted and never shown."))
    if config.get("priority", "default") not in PRIORITIES:
        found.append(diagnostic("priority", "unknown priority", "Want one of " + ", ".join(PRIORITIES)))
    return found


class Topic:
    """One destination."""

    def __init__(self, config, guard):
        self.config, self.guard = config, guard
        self.url = urllib.parse.urlsplit(config["url"])
        self.tls = ssl.create_default_context()

    def connection(self, timeout):
        """A connection that has been dialled."""
        if self.url.scheme == "https":
            made = http.client.HTTPSConnection(self.url.hostname, self.url.port, timeout=timeout, context=self.tls)
        else:
            made = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=timeout)
        made._create_connection = self.guard.connect
        try:
            made.connect()
        except ssl.SSLError as e:
            raise Failed("UNAVAILABLE", "tls.failed", f"TLS with {self.url.hostname}: {e.reason}") from None
        except OSError as e:
            raise Failed("UNAVAILABLE", "tcp.failed", f"connecting to {self.url.hostname}: {e}") from None
        return made

    def deliver(self, attempt):
        """Makes one attempt, on a new connection: one that was left idle may be
        dead, and to find out by sending on it is to lose the outcome."""
        connection = self.connection(max(0.001, attempt.remaining()))
        try:
            attempt.uses(connection.sock)
            connection.sock.settimeout(max(0.001, attempt.remaining()))
            try:
                connection.request("POST", self.url.path, attempt.item.data or b" ", self.headers(attempt.item))
                answer = connection.getresponse()
                excerpt = answer.read(EXCERPT)
            except (OSError, http.client.HTTPException) as e:
                raise Failed("UNKNOWN_OUTCOME", "http.cut", f"cut before the answer came: {type(e).__name__}") from None
            return self.judge(answer, excerpt)
        finally:
            connection.close()

    def headers(self, item):
        headers = {
            "Content-Type": "text/plain", "User-Agent": USER_AGENT, "X-Sequence-ID": item.id, "Connection": "close",
            "Title": encoded(self.config.get("title") or item.type or "delivery"), "Priority": self.config.get("priority", "default"),
        }
        if self.config.get("token"):
            headers["Authorization"] = "Bearer " + self.config["token"]
        return headers

    def judge(self, answer, excerpt):
        """Says what the daemon should do about an answer."""
        if 200 <= answer.status < 300:
            return pb.Success(status=answer.status, reference=reference(excerpt))
        more = {"status": answer.status, "excerpt": excerpt}
        if answer.status == 429:
            kind = "RATE_LIMITED"
            seconds = answer.headers.get("Retry-After", "")
            if seconds.isdigit():
                more["retry_after"] = Duration(seconds=min(int(seconds), 86400))
        elif answer.status in (401, 403):
            kind = "AUTH"
        elif answer.status == 410:
            kind, more["disable"] = "PERMANENT", True
        elif answer.status == 404 or answer.status < 400:
            kind = "CONFIG"  # no such topic, or it has moved: the URL is wrong
        elif answer.status in (408, 425) or answer.status >= 500:
            kind = "TRANSIENT"
        else:
            kind = "PERMANENT"
        raise Failed(kind, f"http.{answer.status}", f"the server answered {answer.status}", **more)

    def test(self, ping):
        """Tries the server; publishes nothing, unless a ping is asked for."""
        yield "connect", self.test_connect
        if ping:
            yield "publish", self.test_publish

    def test_connect(self):
        self.connection(10).close()
        return f"connected to {self.url.hostname}"

    def test_publish(self):
        connection = self.connection(10)
        try:
            connection.request("POST", self.url.path, b"This is a test of deliveryd.", self.headers(pb.Item(id="ping", type="test")))
            answer = connection.getresponse()
            self.judge(answer, answer.read(EXCERPT))
        except (OSError, http.client.HTTPException) as e:
            raise Failed("TRANSIENT", "http.cut", f"cut before the answer came: {type(e).__name__}") from None
        finally:
            connection.close()


def reference(excerpt):
    """The server's own id of the message."""
    try:
        return str(json.loads(excerpt)["id"])[:255]
    except (ValueError, KeyError, TypeError):
        return ""


def encoded(text):
    """Text for a header, in RFC 2047 form where it needs one; line breaks never get through."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if text.isascii() else "=?UTF-8?B?" + base64.b64encode(text.encode()).decode() + "?="


serve(Server(DESCRIBE, validate, Topic))
